"""Contrastive random walk: a walker through a clip and back again ends where it began."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.clips import check_clips, encode_clips
from sslkern.methods.parts.heads import mlp
from sslkern.ops._common import accumulate_dtype, check_number, check_positive_number, refuse

_TINY = 1e-20
"""Added to probabilities before the logarithm, as in the paper's code."""


class ContrastiveRandomWalk(Method):
    r"""Correspondence from palindromes of frames, which supervise themselves.

    .. math:: A_t^{t'} = \mathrm{softmax}_{\mathrm{rows}} \left( \frac{x_t x_{t'}^\top}{\tau}
              \right), \quad \ell = \operatorname*{mean}_{k < T,\, n}\; -\log \left[
              A_0^1 \cdots A_{k-1}^{k} A_{k}^{k-1} \cdots A_1^0 \right]_{n n}

    A frame's nodes x are the cells of the encoder's map behind a linear head, of unit norm. From
    each node of the first frame a walker goes k frames on and k frames back, and the loss is the
    cross-entropy of ending at that node, the mean over nodes and over all k from 1 to T - 1. An
    edge is dropped by leaving it out of the softmax of its row, in each direction by itself.

    As in the paper, walks of one frame and back count; its code leaves them out, and there an edge
    dropped forwards is dropped backwards too. Nodes may also be patches: let the encoder cut them
    out of the frame, and return features (B, map_dim, N).

    Args:
        encoder: Maps frames (B, ...) to feature maps (B, map_dim, ...), such as (B, C, h, w), each
            cell a node.
        map_dim: Channels of the maps.
        projection_dim: Width D of the nodes that are compared.
        temperature: tau.
        edge_dropout: Share of the edges that are dropped in training mode, from 0 to below 1.

    Raises:
        ValueError: If a size or the temperature is not positive, or the share is outside [0, 1).

    Example:
        >>> import torch
        >>> from sslkern.methods import ContrastiveRandomWalk
        >>> encoder = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        >>> model = ContrastiveRandomWalk(encoder, map_dim=16)
        >>> model(torch.rand(2, 4, 3, 8, 8)).backward()
        >>> model.encoder(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 16, 4, 4])

    Source: Jabri, Owens, Efros, "Space-Time Correspondence as a Contrastive Random Walk", 2020,
    https://arxiv.org/abs/2006.14613
    """

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        *,
        projection_dim: int = 128,
        temperature: float = 0.07,
        edge_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "ContrastiveRandomWalk")
        check_number(edge_dropout, "edge_dropout", "ContrastiveRandomWalk")
        if not 0 <= edge_dropout < 1:
            refuse("ContrastiveRandomWalk", "edge_dropout", "from 0 to below 1", edge_dropout)
        self.encoder = encoder
        self.map_dim = map_dim
        self.head = mlp([map_dim, projection_dim])
        self.temperature = temperature
        self.edge_dropout = edge_dropout

    def forward(self, frames: Tensor) -> Tensor:
        """Return the mean loss of a batch of clips.

        Args:
            frames: (B, T, ...), at least 2 frames.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are too few frames, or the encoder does not return maps
                (B T, map_dim, ...).
        """
        check_clips(frames, "ContrastiveRandomWalk")
        rows = encode_clips(self.encoder, frames, self.map_dim, "ContrastiveRandomWalk")
        nodes = self.head(rows)
        # Products of probabilities lose their tails in half precision.
        with torch.autocast(nodes.device.type, enabled=False):
            nodes = F.normalize(nodes.to(accumulate_dtype(nodes)), dim=3)
            return self._walk(nodes[:, :-1] @ nodes[:, 1:].transpose(2, 3) / self.temperature)

    def _walk(self, logits: Tensor) -> Tensor:
        """Loss of the logits (B, T - 1, N, N) between consecutive frames."""
        on, back = self._step(logits), self._step(logits.transpose(2, 3))
        there, home = on[:, 0], back[:, 0]
        losses = [_returns(there, home)]
        for t in range(1, logits.shape[1]):
            there, home = there @ on[:, t], back[:, t] @ home
            losses.append(_returns(there, home))
        return torch.stack(losses).mean()

    def _step(self, logits: Tensor) -> Tensor:
        """Probabilities of a step from each row, some of whose edges are dropped in training."""
        if self.training and self.edge_dropout > 0:
            # Drawn by shape: what is drawn like a transposed tensor depends on its strides.
            draws = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device)
            # Not minus infinity: a row without edges is to be uniform.
            logits = logits.masked_fill(draws < self.edge_dropout, torch.finfo(logits.dtype).min)
        return logits.softmax(3)


def _returns(there: Tensor, home: Tensor) -> Tensor:
    """Mean cross-entropy of being back at the first node, for walks (B, N, N) there and home."""
    return -((there * home.transpose(1, 2)).sum(2) + _TINY).log().mean()
