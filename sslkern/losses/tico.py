"""TiCo as a module, which owns the running covariance."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops.tico import TiCoState, check_constants, tico_loss


class TiCoLoss(SharedLoss):
    """`sslkern.tico_loss` with its covariance: saved with the state, moved with ``to``.

    In training mode every call moves the covariance, once; after ``eval()`` none does.

    Args:
        beta: How much of the covariance stays, in [0, 1).
        rho: Weight of the covariance term, not negative.
        dim: Width of the embeddings; that of the first batch by default.
        differentiate_covariance: Whether the gradient also flows through the covariance of the
            batch; see the function.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.TiCoLoss()
        >>> z = torch.eye(4)
        >>> [round(loss_fn(z, z).item(), 4) for _ in range(2)]
        [0.2, 0.38]

    Equals: `sslkern.reference.tico_loss`, of the matrix before the call.

    Source: Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for
    Self-Supervised Visual Representation Learning", 2022, https://arxiv.org/abs/2206.10698
    """

    def __init__(
        self,
        beta: float = 0.9,
        rho: float = 8.0,
        *,
        dim: int | None = None,
        differentiate_covariance: bool = False,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_constants(beta, rho)
        self.beta = beta
        self.rho = rho
        self.differentiate_covariance = differentiate_covariance
        self.state = TiCoState(dim)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Mean loss over the rows of ``z_a`` and ``z_b``, both (N, D)."""
        return tico_loss(
            z_a,
            z_b,
            self.state,
            beta=self.beta,
            rho=self.rho,
            differentiate_covariance=self.differentiate_covariance,
            update=self.training,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The numbers, for ``print(module)``."""
        return (
            f"beta={self.beta}, rho={self.rho}, "
            f"differentiate_covariance={self.differentiate_covariance}"
        )
