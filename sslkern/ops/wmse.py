"""W-MSE: the mean squared error of unit rows that were whitened first."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count, check_pair, working_dtype
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.processes import Processes, Sharing, are_many, meet
from sslkern.parallel.whole import least_rows
from sslkern.reference._common import normalize_rows

_OP = "wmse"


def wmse_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    w_size: int | None = None,
    w_iter: int = 1,
    generator: torch.Generator | None = None,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Mean squared error between the whitened views of each sample (W-MSE).

    The rows are split at random into sub-batches of ``w_size``, the same ones for both views, in
    which each view is whitened on its own: with the mean :math:`\mu` and the unbiased covariance
    :math:`\Sigma = L L^\top` of a sub-batch,

    .. math:: \ell = \frac{1}{N} \sum_i \bigl(2 - 2 \cos(w^a_i, w^b_i)\bigr), \quad
              w_i = L^{-1} (z_i - \mu)

    averaged over ``w_iter`` such partitions. The gradient reaches both views, through the
    factorisation as well. With more than two views take the mean of the loss over their pairs.

    A covariance squares the condition number of the rows, and that of learned embeddings is large:
    all is computed in float64 whatever the inputs are, and the loss rounded at the end.

    Args:
        z_a: Embeddings of the first view (N, D), float64, float32, bfloat16 or float16.
        z_b: Embeddings of the second view, of the shape and dtype of ``z_a``.
        w_size: Rows of a sub-batch, at least 2 D; N has to be a multiple of it. All N by default,
            when nothing is drawn: there is one partition, whatever ``w_iter`` is.
        w_iter: Number of random partitions.
        generator: Source of the partitions, on the device of the inputs. It cannot be passed
            through ``torch.compile``.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows,
            and computes the loss of all. The partitions are those that the first rank draws. See
            `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar between 0 and 4; float64 for float64 inputs, else float32. NaN where an input is
        not finite.

    Raises:
        ValueError: For a wrong shape, device, size or count, and on the CPU where a covariance is
            singular; elsewhere and when compiled the loss is NaN then.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> z = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        >>> print(f"{sslkern.wmse_loss(z, -z, w_size=8).item():.4f}")
        4.0000

    Equals: `sslkern.reference.wmse_loss`, for the same state of the generator.

    Source: Ermolov et al., "Whitening for Self-Supervised Representation Learning", 2020,
    https://arxiv.org/abs/2007.06346
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_pair(z_a, z_b, _OP, least_rows(sharing))
        check_sub_batches(w_size, w_iter)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(
                f"sslkern::{_OP}: expected generator to be a torch.Generator, "
                f"got {type(generator).__name__}"
            )
        if not are_many(sharing):
            _sub_batch_size(z_a, w_size)

    shards, options = {"z_a": z_a, "z_b": z_b}, {"w_size": w_size, "w_iter": w_iter}
    processes = meet(_OP, sharing, shards, options, check_arguments)
    a, b = z_a.double(), z_b.double()
    if processes is not None:
        a, b = (gather_rows(processes, "z_a", z) for z in (a, b))
    rows, size = a.shape[0], _sub_batch_size(a, w_size)
    if size == rows:
        a, b = a[None], b[None]
    else:
        parts = _draw(processes, rows, w_iter, generator, z_a.device).reshape(-1, size)
        a, b = a[parts], b[parts]
    cosine = (_whitened_unit_rows(a, "z_a") * _whitened_unit_rows(b, "z_b")).sum(1)
    return (2 - 2 * cosine.mean()).to(working_dtype(z_a, z_b))


def _draw(
    processes: Processes | None,
    rows: int,
    count: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Orders of the rows, (count * rows,) int64: of several processes the first one draws."""
    if processes is not None and processes.rank > 0:
        return processes.all_reduce(torch.zeros(count * rows, dtype=torch.int64, device=device))
    orders = [torch.randperm(rows, generator=generator, device=device) for _ in range(count)]
    found = torch.cat(orders)
    return found if processes is None else processes.all_reduce(found)


def check_sub_batches(w_size: int | None, w_iter: int) -> None:
    """Reject what no batch could make right."""
    if w_size is not None:
        check_count(w_size, "w_size", _OP)
    check_count(w_iter, "w_iter", _OP)


def _sub_batch_size(z: Tensor, w_size: int | None) -> int:
    rows, dim = z.shape
    if w_size is None:
        if rows < 2 * dim:
            got = f"shape {tuple(z.shape)}"
            refuse(_OP, "z_a", "of shape (N, D) with N >= 2 D where w_size is None", got)
        return rows
    check_count(w_size, "w_size", _OP)
    if w_size < 2 * dim:
        refuse(_OP, "w_size", f"at least 2 D = {2 * dim}", w_size)
    if rows % w_size != 0:
        requirement = f"of shape (N, D) with N a multiple of w_size = {w_size}"
        refuse(_OP, "z_a", requirement, f"shape {tuple(z.shape)}")
    return w_size


def _whitened_unit_rows(z: Tensor, name: str) -> Tensor:
    """Sub-batches (P, w_size, D) -> the directions of their whitened rows, (P * w_size, D)."""
    centered = z - z.mean(1, keepdim=True)
    covariance = centered.mT @ centered / (z.shape[1] - 1)
    factor, info = torch.linalg.cholesky_ex(covariance)
    dependent = _dependent_columns(covariance.detach(), factor.detach(), info)
    _check_rank(dependent, covariance.detach(), name, z.shape[1])
    factor = factor.masked_fill(dependent.any(1)[:, None, None], math.nan)
    whitened = torch.linalg.solve_triangular(factor, centered.mT, upper=False)
    return normalize_rows(whitened.mT.flatten(0, 1))


def _dependent_columns(covariance: Tensor, factor: Tensor, info: Tensor) -> Tensor:
    """Which columns have nothing left beside those before them, (P, D).

    A squared pivot is what is left of a column's variance. Its rounding is that of D products, and
    a factorisation of a singular matrix may run to its end on that.
    """
    dim = factor.shape[1]
    column = torch.arange(dim, device=factor.device)
    variance, left = covariance[:, column, column], factor[:, column, column]
    nothing = dim * torch.finfo(factor.dtype).eps * variance
    failed_at = column + 1 == info[:, None]
    return failed_at | (left.square() <= nothing)


def _check_rank(dependent: Tensor, covariance: Tensor, name: str, size: int) -> None:
    """Reject a singular covariance on the CPU; what is not finite shows in the loss."""
    if torch.compiler.is_compiling() or dependent.device.type != "cpu":
        return
    found = dependent & covariance.isfinite().flatten(1).all(1)[:, None]
    if bool(found.any()):
        column = int(found.nonzero()[0, 1])
        requirement = f"of a covariance with full rank in every sub-batch of {size} rows"
        refuse(
            _OP,
            name,
            requirement,
            f"one where column {column} is constant or depends on those before it",
        )
