"""FroSSL: even spectra by the Frobenius norm, and views that agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sslkern.ops._embeddings import check_not_negative, full_precision
from sslkern.parallel.processes import Sharing
from sslkern.parallel.whole import all_views
from sslkern.reference._common import normalize_rows

_OP = "frossl"


def frossl_loss(
    views: Tensor | Sequence[Tensor],
    *,
    invariance_weight: float = 1.0,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Log of the Frobenius norm of each view's covariance, and distance to the mean view (FroSSL).

    With columns of unit norm in every view :math:`\hat Z_v`, and their mean over the V views
    :math:`\bar Z`:

    .. math:: \ell = \sum_v \Bigl( 2 \log \Bigl\lVert \frac{\hat Z_v^\top \hat Z_v}
              {\mathrm{tr}\, \hat Z_v^\top \hat Z_v} \Bigr\rVert_F
              + \lambda \frac{V}{N} \lVert \hat Z_v - \bar Z \rVert_F^2 \Bigr)

    The first term is minus an entropy of the spectrum: 0 where all rows are collinear and
    :math:`-\log D` where columns are orthogonal. Its norm is that of the smaller one of the
    matrices (D, D) and (N, N) of products. The columns are not centred.

    Args:
        views: Embeddings (N, V, D), N >= 2 and V >= 2, or a sequence of V matrices (N, D);
            float64, float32, bfloat16 or float16. All arithmetic is in float32 (float64 for
            float64). Columns with norm below 1e-12 count as zero.
        invariance_weight: Weight lambda, not negative.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows,
            and computes the loss of all; see `sslkern.parallel` for what that means for results
            and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32. NaN where a view is zero.

    Raises:
        ValueError: For a wrong shape, device or value.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> z = torch.eye(4)
        >>> print(f"{sslkern.frossl_loss([z, z]).item():.4f}")  # -2 log 4
        -2.7726

    Equals: `sslkern.reference.frossl_loss`.

    Source: Skean et al., "FroSSL: Frobenius Norm Minimization for Efficient Multiview
    Self-Supervised Learning", 2023, https://arxiv.org/abs/2310.02903
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_options() -> None:
        check_not_negative(invariance_weight, "invariance_weight", _OP)

    options = {"invariance_weight": invariance_weight}
    z = all_views(_OP, sharing, views, options, check_options)
    n, count, dim = z.shape
    with full_precision(z):
        unit = normalize_rows(z.flatten(1).T).T.view(z.shape).transpose(0, 1)
        gram = unit.mT @ unit if dim < n else unit @ unit.mT
        # The number of columns that are not zero, so a constant.
        trace = unit.detach().square().sum((1, 2))
        entropy = (gram / trace[:, None, None]).square().sum((1, 2)).log()
        spread = (unit - unit.mean(0)).square().sum()
        return entropy.sum() + invariance_weight * count * spread / n
