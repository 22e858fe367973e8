"""FroSSL as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.frossl import frossl_loss


class FroSSLLoss(SharedLoss):
    """`sslkern.frossl_loss` with its weight held.

    Args:
        invariance_weight: Weight of the distance to the mean view, not negative.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

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

    def __init__(
        self,
        invariance_weight: float = 1.0,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_not_negative(invariance_weight, "invariance_weight", "frossl")
        self.invariance_weight = invariance_weight

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of the views (N, V, D), or of a sequence of V matrices (N, D)."""
        return frossl_loss(views, invariance_weight=self.invariance_weight, **self.sharing)

    def extra_repr(self) -> str:
        """The weight, for ``print(module)``."""
        return f"invariance_weight={self.invariance_weight}"
