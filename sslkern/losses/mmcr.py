"""MMCR as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.mmcr import mmcr_loss


class MMCRLoss(SharedLoss):
    """`sslkern.mmcr_loss` with its settings held.

    Args:
        lmda: Weight of the nuclear norms of the samples, not negative.
        normalize: Scale all rows to unit norm first. With ``lmda=5e-3`` and ``normalize=False`` it
            is lightly's loss.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

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

    def __init__(
        self,
        lmda: float = 0.0,
        normalize: bool = True,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_not_negative(lmda, "lmda", "mmcr")
        self.lmda = lmda
        self.normalize = normalize

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of the views (N, V, D), or of a sequence of V matrices (N, D)."""
        return mmcr_loss(views, lmda=self.lmda, normalize=self.normalize, **self.sharing)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"lmda={self.lmda}, normalize={self.normalize}"
