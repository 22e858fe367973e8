"""CPC: what a context network has seen of a sequence tells its next pieces from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, encode
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss


class CPC(Method):
    r"""Contrastive predictive coding of sequences of pieces, such as windows of a signal.

    .. math:: z_t = f(x_t), \quad c_t = \mathrm{GRU}(z_1, \dots, z_t), \quad
              \ell = -\frac{1}{K} \sum_{k=1}^{K} \operatorname*{mean}_{b,\,t}\, \log
              \frac{\exp(z_{b,t+k} \cdot W_k c_{b,t})}
              {\sum_{b',\,t'} \exp(z_{b',t'+k} \cdot W_k c_{b,t})}

    For each offset k there is a linear map :math:`W_k`, and the pieces that are told apart are all
    those that lie k behind a context: B (T - k) of them, other sequences' and other places' of the
    same sequence. Nothing is scaled to unit norm, and gradients reach all pieces. Where all scores
    are equal the term of an offset is :math:`\log B(T - k)`, and that less its loss is a lower
    bound of the information that the context has about the piece.

    The context network is a GRU of one layer, as the paper has it for sound; for images it has
    a PixelCNN, which is left out. After training one keeps the encoder, or the contexts.
    `torch.compile` breaks its graph at a GRU unless ``torch._dynamo.config.allow_rnn`` is set.

    Args:
        encoder: Maps pieces (N, ...) to features (N, feature_dim).
        feature_dim: Width of the encoder's features.
        context_dim: Width of the contexts.
        offsets: Number K of offsets that are predicted.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import CPC
        >>> model = CPC(torch.nn.Linear(8, 16), feature_dim=16, context_dim=32, offsets=3)
        >>> windows = torch.randn(4, 40).unfold(1, 8, 4)
        >>> windows.shape
        torch.Size([4, 9, 8])
        >>> model(windows).backward()
        >>> model.contexts(windows).shape
        torch.Size([4, 9, 32])

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    https://arxiv.org/abs/1807.03748
    """

    def __init__(
        self, encoder: nn.Module, feature_dim: int, *, context_dim: int = 256, offsets: int = 12
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", "CPC")
        check_count(context_dim, "context_dim", "CPC")
        check_count(offsets, "offsets", "CPC")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.context = nn.GRU(feature_dim, context_dim, batch_first=True)
        maps = (nn.Linear(context_dim, feature_dim, bias=False) for _ in range(offsets))
        self.predictors = nn.ModuleList(maps)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the mean loss of the offsets.

        Args:
            sequences: Pieces (B, T, ...) in their order, T more than the offsets.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are fewer than two pairs of the largest offset, or the encoder
                returns something else than (B T, feature_dim).
        """
        self._check(sequences)
        z = self.encode_pieces(sequences)
        c, _ = self.context(z)
        losses = []
        for k, predictor in enumerate(self.predictors, 1):
            query, key = predictor(c[:, :-k]).flatten(0, 1), z[:, k:].flatten(0, 1)
            losses.append(info_nce_loss(query, key, temperature=1.0, normalize=False))
        return torch.stack(losses).mean()

    def encode_pieces(self, sequences: Tensor) -> Tensor:
        """Features (B, T, feature_dim) of pieces (B, T, ...), encoded as one batch."""
        z = encode(self.encoder, sequences.flatten(0, 1), self.feature_dim, "CPC")
        return z.view(*sequences.shape[:2], self.feature_dim)

    def contexts(self, sequences: Tensor) -> Tensor:
        """Contexts (B, T, context_dim) of pieces (B, T, ...): that of t has seen t and before."""
        c: Tensor
        c, _ = self.context(self.encode_pieces(sequences))
        return c

    def _check(self, sequences: Tensor) -> None:
        offsets = len(self.predictors)
        check_tensor(sequences, "sequences", "CPC")
        shape = tuple(sequences.shape)
        if len(shape) < 3 or shape[0] * (shape[1] - offsets) < 2:
            requirement = f"of shape (B, T, ...) with at least two pieces {offsets} behind another"
            refuse("CPC", "sequences", requirement, f"shape {shape}")
