"""KoLeo as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops.koleo import check_settings, koleo_loss


class KoLeoLoss(SharedLoss):
    """`sslkern.koleo_loss` with its settings held.

    Args:
        p: The norm of the distance, at least 1.
        eps: Positive number that keeps the logarithm finite.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.KoLeoLoss()
        >>> print(f"{loss_fn(torch.eye(4)).item():.4f}")  # -log of the root of 2
        -0.3466

    Equals: `sslkern.reference.koleo_loss`.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", 2018,
    https://arxiv.org/abs/1806.03198
    """

    def __init__(
        self,
        p: float = 2.0,
        eps: float = 1e-8,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_settings(p, eps)
        self.p = p
        self.eps = eps

    def forward(self, z: Tensor) -> Tensor:
        """Loss of the rows of ``z`` (N, D)."""
        return koleo_loss(z, p=self.p, eps=self.eps, **self.sharing)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"p={self.p}, eps={self.eps}"
