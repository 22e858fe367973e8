"""Each sample as a class of its own: losses against a memory with one row for each of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts.memory import IndexMemory, Init, check_index
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss
from sslkern.ops.sampled_logits import estimate_log_normalizer, sampled_logits, sampled_nce_loss


class InstanceClassifier(nn.Module):
    r"""Which sample an embedding is of, by the rows m of a memory.

    .. math:: P(i | z) = \frac{1}{Z} \exp(m_i \cdot z / \tau)

    Without ``negatives`` the loss is :math:`-\log P(i | z)` and Z the sum over all rows: a softmax.
    With K negatives it is noise-contrastive estimation, which tells the sample from K rows that are
    drawn from all alike, with replacement:

    .. math:: \ell = -\log \frac{P(i | z)}{P(i | z) + K / n}
                     - \sum_{k=1}^{K} \log \frac{K / n}{P(n_k | z) + K / n}

    Z is then estimated from the first batch in training and kept, as part of the state.

    Args:
        size: Number n of samples.
        dim: Width of the embeddings.
        op: Name of the method.
        negatives: K; 0 for the softmax.
        temperature: tau.
        momentum: Of the rows, from 0 to 1.
        init: Of the rows, see `IndexMemory`.

    Raises:
        ValueError: If a size or the temperature is not positive, the number of negatives is
            negative or the momentum outside [0, 1].

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, https://arxiv.org/abs/1805.01978
    """

    log_normalizer: Tensor
    """log Z, a 0-d float64 tensor; NaN until it is estimated. Only with negatives."""

    def __init__(
        self,
        size: int,
        dim: int,
        op: str,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
        init: Init = "uniform",
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", op)
        self.op = op
        self.negatives = negatives
        self.temperature = temperature
        self.memory = IndexMemory(size, dim, momentum, init=init)
        if negatives == 0:
            return
        check_count(negatives, "negatives", op)
        self.register_buffer("log_normalizer", torch.full((), float("nan"), dtype=torch.float64))
        self._estimated = False  # of the buffer; a Python value, so that no graph depends on data
        self.register_load_state_dict_post_hook(_look_at_buffer)  # type: ignore[no-untyped-call]

    def forward(self, index: Tensor, *embeddings: Tensor) -> list[Tensor]:
        """Mean losses of several embeddings of the same samples.

        Args:
            index: Which samples these are, (B,) int64 in [0, n).
            embeddings: (B, D) each, of any norm.

        Returns:
            Scalars. The memory may change before ``backward``.

        Raises:
            ValueError: If the index is of another shape or, on the CPU, out of range.
            TypeError: If it is not int64.
        """
        rows = self.memory.rows
        check_index(index, "index", self.op, len(rows), rows)
        if index.shape != embeddings[0].shape[:1]:
            got = f"shape {tuple(index.shape)}"
            refuse(self.op, "index", f"of shape ({len(embeddings[0])},)", got)
        units = [F.normalize(z.to(rows.dtype)) for z in embeddings]
        if self.negatives == 0:
            return [self._softmax(z, rows, index) for z in units]
        rows = rows.clone()  # backward reads them, and the memory will be another one then
        return [self._nce(z, rows, index) for z in units]

    def remember(self, index: Tensor, embeddings: Tensor) -> None:
        """Move the rows of these samples towards the embeddings (B, D)."""
        self.memory.update(index, embeddings)

    def _softmax(self, z: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        return info_nce_loss(z, rows, target=index, temperature=self.temperature, normalize=False)

    def _nce(self, z: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        negative = torch.randint(len(rows), (len(z), self.negatives), device=z.device)
        if self.training and not self._estimated:
            self._estimate(z, rows, torch.cat([index[:, None], negative], 1))
        return sampled_nce_loss(
            z,
            rows,
            index,
            negative,
            temperature=self.temperature,
            log_normalizer=self.log_normalizer if self._estimated else None,
        )

    @torch.no_grad()
    def _estimate(self, z: Tensor, rows: Tensor, index: Tensor) -> None:
        logits = sampled_logits(z, rows, index) / self.temperature
        self.log_normalizer.copy_(estimate_log_normalizer(logits, len(rows)))
        self._estimated = True


def _look_at_buffer(module: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(module, InstanceClassifier)
    module._estimated = not bool(module.log_normalizer.isnan())
