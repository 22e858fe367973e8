"""MMCR as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.mmcr import mmcr_loss


class MMCRLoss(nn.Module):
    """`sslkern.mmcr_loss` with its settings held.

    Args:
        lmda: Weight of the nuclear norms of the samples, not negative.
        normalize: Scale all rows to unit norm first. With ``lmda=5e-3`` and ``normalize=False`` it
            is lightly's loss.

    Raises:
        ValueError: If the weight is negative or not finite.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.MMCRLoss()
        >>> views = torch.randn(16, 2, 8, requires_grad=True)
        >>> loss = loss_fn(views)
        >>> loss.backward()

    Equals: `sslkern.reference.mmcr_loss`.

    Source: Yerxa et al., "Learning Efficient Coding of Natural Images with Maximum Manifold
    Capacity Representations", 2023, https://arxiv.org/abs/2303.03307
    """

    def __init__(self, lmda: float = 0.0, normalize: bool = True) -> None:
        super().__init__()
        check_not_negative(lmda, "lmda", "mmcr")
        self.lmda = lmda
        self.normalize = normalize

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of the views (N, V, D), or of a sequence of V matrices (N, D)."""
        return mmcr_loss(views, lmda=self.lmda, normalize=self.normalize)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"lmda={self.lmda}, normalize={self.normalize}"
