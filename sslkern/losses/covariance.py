"""VICReg as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops._gram import as_number
from sslkern.ops.covariance import EPS, check_variant, vicreg_loss

_OP = "covariance"


class VICRegLoss(SharedLoss):
    """`sslkern.vicreg_loss` with its settings held.

    Args:
        lambda_param: Weight of the invariance.
        mu_param: Weight of the variance.
        nu_param: Weight of the covariance.
        eps: Added to the variances; positive.
        variant: ``"official"``, ``"solo"`` or ``"vibcreg"``; see the function.
        statistics: ``"global"`` or ``"local"``, of the columns; see the function.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If ``eps`` is not positive and finite, a weight is not finite, or the variant is
            unknown.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.VICRegLoss()
        >>> print(f"{loss(torch.ones(4, 3), torch.ones(4, 3)).item():.2f}")
        24.75

    Equals: `sslkern.reference.vicreg_loss`; ``lightly.loss.VICRegLoss`` of one process.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906
    """

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        eps: float = EPS,
        variant: str = "official",
        *,
        statistics: str = "global",
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        self.statistics = statistics
        self.lambda_param = as_number(lambda_param, "lambda_param", _OP)
        self.mu_param = as_number(mu_param, "mu_param", _OP)
        self.nu_param = as_number(nu_param, "nu_param", _OP)
        check_positive_number(eps, "eps", _OP)
        check_variant(variant)
        self.eps = eps
        self.variant = variant

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views, each (N, D)."""
        weights = (self.lambda_param, self.mu_param, self.nu_param)
        loss: Tensor = vicreg_loss(
            z_a,
            z_b,
            *weights,
            eps=self.eps,
            variant=self.variant,
            statistics=self.statistics,
            **self.sharing,
        )
        return loss

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"lambda_param={self.lambda_param}, mu_param={self.mu_param}, "
            f"nu_param={self.nu_param}, eps={self.eps}, variant={self.variant!r}"
        )
