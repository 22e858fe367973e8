"""MMCR: centroids that fill the space, from views that stay together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._embeddings import check_not_negative
from sslkern.parallel.processes import Sharing
from sslkern.parallel.whole import all_views
from sslkern.reference._common import normalize_rows

_OP = "mmcr"


def mmcr_loss(
    views: Tensor | Sequence[Tensor],
    *,
    lmda: float = 0.0,
    normalize: bool = True,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Nuclear norm of the centroids, maximised (Maximum Manifold Capacity Representations).

    With the matrix :math:`Z_b` of the V views of sample b, its mean :math:`c_b` and the matrix C of
    these centroids, all (N, D) of them:

    .. math:: \ell = -\lVert C \rVert_* + \frac{\lambda}{N} \sum_b \lVert Z_b \rVert_*

    Unit rows bound it by :math:`-\sqrt{N \min(N, D)}`, where centroids are as long as rows, which
    are views that agree, and spread over all directions alike.

    Args:
        views: Embeddings (N, V, D), N >= 2 and V >= 2, or a sequence of V matrices (N, D);
            float64, float32, bfloat16 or float16. All arithmetic is in float32 (float64 for
            float64).
        lmda: Weight of the second term, not negative: 0 in the authors' code, 5e-3 in lightly.
        normalize: Scale all rows to unit norm first, as the authors' code does; rows with norm
            below 1e-12 count as zero. ``False`` for lightly's loss, which grows with the rows.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows,
            and computes the loss of all; see `sslkern.parallel` for what that means for results
            and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32. NaN where an input is not finite. Second
        derivatives are right where no singular value is zero or occurs twice, else not finite.

    Raises:
        ValueError: For a wrong shape, device or value.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> z = torch.eye(8)
        >>> print(f"{sslkern.mmcr_loss([z, z]).item():.4f}")
        -8.0000

    Equals: `sslkern.reference.mmcr_loss`.

    Source: Yerxa et al., "Learning Efficient Coding of Natural Images with Maximum Manifold
    Capacity Representations", 2023, https://arxiv.org/abs/2303.03307
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_options() -> None:
        check_not_negative(lmda, "lmda", _OP)

    z = all_views(_OP, sharing, views, {"lmda": lmda, "normalize": normalize}, check_options)
    finite = z.isfinite().all()
    # A decomposition raises an error of its own on the rest, or never ends.
    rows = torch.where(finite, z, 0)
    if normalize:
        rows = normalize_rows(rows.flatten(0, 1)).view(z.shape)
    loss: Tensor = -torch.linalg.svdvals(rows.mean(1)).sum()
    if lmda != 0:
        loss = loss + lmda * torch.linalg.svdvals(rows).sum(1).mean()
    invalid = torch.where(finite, 0.0, torch.nan)
    return loss + (invalid * z).mean()
