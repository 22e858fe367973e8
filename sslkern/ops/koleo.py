"""KoLeo: rows that keep away from their nearest neighbours, found without an N x N matrix."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._common import check_number, check_positive_number, refuse
from sslkern.ops._embeddings import check_rows, full_precision, working_dtype
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.processes import Sharing, meet
from sslkern.parallel.rows import reduce_rows
from sslkern.parallel.whole import check_total, least_rows
from sslkern.reference._common import normalize_rows

_OP = "koleo"
_BLOCK = 1 << 22
"""Products of rows with all others in memory at a time."""


def koleo_loss(
    z: Tensor,
    *,
    p: float = 2.0,
    eps: float = 1e-8,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Minus the mean log distance of each row to its nearest neighbour (KoLeo).

    With unit rows :math:`\hat z`, and :math:`n(i)` the row nearest to row i by Euclidean distance:

    .. math:: \ell = -\frac{1}{N} \sum_i \log\bigl(
              \lVert \hat z_i - \hat z_{n(i)} \rVert_p + \epsilon\bigr)

    The search takes blocks of rows against all, 4 Mi products or N, whichever is more, at a time:
    16 MiB in float32, where the N x N matrix has N^2. Only the N distances that are found have a
    gradient, for both of their rows. Where two rows coincide it is zero, as there is no direction
    in which to part, and the second derivative NaN.

    DINOv2 and lightly also add epsilon to each coordinate of the difference, which moves a distance
    by :math:`\epsilon \sqrt D` at most.

    Args:
        z: Embeddings (N, D), N >= 2, float64, float32, bfloat16 or float16. All arithmetic is in
            float32 (float64 for float64). Rows with norm below 1e-12 count as zero.
        p: The norm of the distance, at least 1; the neighbour is always the Euclidean one.
        eps: Positive number that keeps the logarithm finite.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows
            and looks for their neighbours among those of all. See `sslkern.parallel` for what that
            means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape or value.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> z = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
        >>> print(f"{sslkern.koleo_loss(z).item():.4f}")  # -log 2
        -0.6931

    Equals: `sslkern.reference.koleo_loss`.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", 2018,
    https://arxiv.org/abs/1806.03198
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_rows(z, "z", _OP, least=least_rows(sharing))
        check_settings(p, eps)

    processes = meet(_OP, sharing, {"z": z}, {"p": p, "eps": eps}, check_arguments)
    with full_precision(z):
        x = normalize_rows(z.to(working_dtype(z)))
        row = torch.arange(x.shape[0], device=x.device)
        every = x
        if processes is not None:
            check_total(processes, "z")
            every, row = gather_rows(processes, "z", x), processes.indices("z", x.device)
        apart: Tensor = torch.linalg.vector_norm(x - every[_nearest(x, every, row)], ord=p, dim=1)
        return reduce_rows(processes, -(apart + eps).log(), None, "mean")


def check_settings(p: float, eps: float) -> None:
    """Reject what is no number or out of its range."""
    check_number(p, "p", _OP)
    if not p >= 1:
        refuse(_OP, "p", "at least 1", p)
    check_positive_number(eps, "eps", _OP)


@torch.no_grad()
def _nearest(x: Tensor, every: Tensor, row: Tensor) -> Tensor:
    """The index in ``every`` of the nearest other row by Euclidean distance, of rows there."""
    # Distances stay, and where all rows nearly coincide products keep the digits that differ.
    mean = every.mean(0)
    x, every = x.detach() - mean, every.detach() - mean
    half_square = every.square().sum(1) / 2
    block = max(1, _BLOCK // every.shape[0])
    found = []
    for rows, own in zip(torch.split(x, block), torch.split(row, block), strict=True):
        # |x - y|^2 = |x|^2 - 2 (x y - |y|^2 / 2)
        closeness = torch.addmm(half_square, rows, every.T, beta=-1)
        found.append(closeness.scatter_(1, own[:, None], -torch.inf).argmax(1))
    return torch.cat(found)
