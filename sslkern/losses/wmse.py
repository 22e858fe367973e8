"""W-MSE as a module."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops.wmse import check_sub_batches, wmse_loss


class WMSELoss(SharedLoss):
    """`sslkern.wmse_loss` with its sub-batches held.

    Args:
        w_size: Rows of a sub-batch, at least twice the width of the embeddings; the whole batch by
            default.
        w_iter: Number of random partitions of the batch.
        generator: Source of the partitions, on the device of the inputs.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.WMSELoss(w_size=8)
        >>> z = torch.randn(16, 4, requires_grad=True)
        >>> loss = loss_fn(z, 3 * z + 1)  # whitening undoes the rest
        >>> loss.backward()
        >>> abs(round(loss.item(), 4))
        0.0

    Equals: `sslkern.reference.wmse_loss`.

    Source: Ermolov et al., "Whitening for Self-Supervised Representation Learning", 2020,
    https://arxiv.org/abs/2007.06346
    """

    def __init__(
        self,
        w_size: int | None = None,
        w_iter: int = 1,
        *,
        generator: torch.Generator | None = None,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_sub_batches(w_size, w_iter)
        self.w_size = w_size
        self.w_iter = w_iter
        self.generator = generator

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Mean loss over the rows of ``z_a`` and ``z_b``, both (N, D)."""
        return wmse_loss(
            z_a,
            z_b,
            w_size=self.w_size,
            w_iter=self.w_iter,
            generator=self.generator,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The sub-batches, for ``print(module)``."""
        return f"w_size={self.w_size}, w_iter={self.w_iter}"
