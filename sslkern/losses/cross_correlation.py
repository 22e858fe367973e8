"""Barlow Twins as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops._gram import as_number
from sslkern.ops.cross_correlation import barlow_twins_loss

_OP = "cross_correlation"


class BarlowTwinsLoss(SharedLoss):
    """`sslkern.barlow_twins_loss` with its settings held.

    Args:
        lambda_param: Weight of the elements beside the diagonal.
        eps: Added to the variances; positive.
        scale: Factor of the loss.
        statistics: ``"global"`` or ``"local"``, of the columns; see the function.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If ``eps`` is not positive and finite, or another setting is not finite.

    Example:
        >>> import torch, sslkern
        >>> z = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
        >>> loss = sslkern.losses.BarlowTwinsLoss()
        >>> print(f"{loss(z, -z).item():.4f}")
        11.9999

    Equals: `sslkern.reference.barlow_twins_loss`; ``lightly.loss.BarlowTwinsLoss`` of one process.

    Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021,
    https://arxiv.org/abs/2103.03230
    """

    def __init__(
        self,
        lambda_param: float = 5e-3,
        eps: float = 1e-5,
        scale: float = 1.0,
        *,
        statistics: str = "global",
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        self.statistics = statistics
        self.lambda_param = as_number(lambda_param, "lambda_param", _OP)
        check_positive_number(eps, "eps", _OP)
        self.eps = eps
        self.scale = as_number(scale, "scale", _OP)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views, each (N, D)."""
        loss: Tensor = barlow_twins_loss(
            z_a,
            z_b,
            self.lambda_param,
            eps=self.eps,
            scale=self.scale,
            statistics=self.statistics,
            **self.sharing,
        )
        return loss

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"lambda_param={self.lambda_param}, eps={self.eps}, scale={self.scale}"
