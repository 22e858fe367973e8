"""FroSSL as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.frossl import frossl_loss


class FroSSLLoss(nn.Module):
    """`sslkern.frossl_loss` with its weight held.

    Args:
        invariance_weight: Weight of the distance to the mean view, not negative.

    Raises:
        ValueError: If the weight is negative or not finite.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.FroSSLLoss()
        >>> views = torch.randn(16, 2, 8, requires_grad=True)
        >>> loss = loss_fn(views)
        >>> loss.backward()

    Equals: `sslkern.reference.frossl_loss`.

    Source: Skean et al., "FroSSL: Frobenius Norm Minimization for Efficient Multiview
    Self-Supervised Learning", 2023, https://arxiv.org/abs/2310.02903
    """

    def __init__(self, invariance_weight: float = 1.0) -> None:
        super().__init__()
        check_not_negative(invariance_weight, "invariance_weight", "frossl")
        self.invariance_weight = invariance_weight

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of the views (N, V, D), or of a sequence of V matrices (N, D)."""
        return frossl_loss(views, invariance_weight=self.invariance_weight)

    def extra_repr(self) -> str:
        """The weight, for ``print(module)``."""
        return f"invariance_weight={self.invariance_weight}"
