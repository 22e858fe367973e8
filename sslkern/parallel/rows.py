"""Losses whose rows need nothing of other ranks: only their mean, or their sum, is of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._common import accumulate_dtype, refuse
from sslkern.parallel.gradients import once, reduce_over_ranks, sum_over_ranks
from sslkern.parallel.processes import Processes, Sharing, meet
from sslkern.reference._common import reduce_loss


def rows_of_ranks(
    op: str,
    sharing: Sharing,
    shards: dict[str, Tensor],
    options: Mapping[str, object],
    compute: Callable[[], Tensor],
    *,
    one_shape: bool = True,
) -> tuple[Tensor, Processes | None]:
    """What ``compute`` makes of this rank's rows, and the ranks: see `meet`.

    It is called before the ranks meet: what it raises on one rank all of them do, if they check.
    """
    found: list[Tensor] = []

    def compute_here() -> None:
        found.append(compute())

    processes = meet(op, sharing, shards, options, compute_here, one_shape=one_shape)
    return found[0], processes


def flat_rows(x: Any) -> Any:
    """Rows (..., D) as (N, D); what is no such tensor as it is, for its check to name it."""
    rows = isinstance(x, Tensor) and x.dim() > 2 and x.layout == torch.strided
    return x.flatten(0, -2) if rows else x


def reduce_rows(
    processes: Processes | None, rows: Tensor, weight: Tensor | None, reduction: str
) -> Tensor:
    """The mean or sum of this process's rows or, where there are several, of all ranks' rows."""
    if processes is None:
        return reduce_loss(rows, weight, reduction)
    return reduce_over_ranks(processes, rows, weight, reduction)


def mean_by_shares(
    processes: Processes | None, total: Tensor, shares: Tensor, count: Tensor
) -> Tensor:
    """The sum of losses over the sum of their shares, float64, 0 where nobody has any.

    Args:
        processes: The ranks whose sums are added up; None for this process alone.
        total: Of the losses, a scalar.
        shares: Of their shares in the mean.
        count: How many have one.
    """
    sums = torch.stack([x.double() for x in (total, shares, count)])
    sums = sums if processes is None else sum_over_ranks(processes, sums)
    return sums[0] / torch.where(sums[2] > 0, sums[1], 1)


def no_rows(op: str, definition: str, x: Tensor, *others: Tensor | None) -> Tensor:
    """Losses of no rows, which give a zero gradient to all that those of others depend on.

    ``definition`` is the reference that has second derivatives, which other ranks refuse, too.
    """
    floating = [y for y in others if y is not None and y.is_floating_point()]
    empty: Tensor = _NoRows.apply(op, definition, x, *floating)  # type: ignore[no-untyped-call]
    return empty


class _NoRows(Function):
    @staticmethod
    def forward(ctx: Any, op: str, definition: str, *tensors: Tensor) -> Tensor:
        ctx.names = op, definition
        ctx.save_for_backward(*tensors)
        return tensors[0].new_empty(0, dtype=accumulate_dtype(tensors[0]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads = tuple(torch.zeros_like(x) for x in ctx.saved_tensors)
        return once(*ctx.names, (None, None, *grads), (*ctx.saved_tensors, grad))  # type: ignore


def stand_in(op: str, name: str, x: Tensor) -> Tensor:
    """A row of zeros for a tensor that has to be without any.

    A rank without rows lets the operator look at it and at the other arguments, as other ranks do.
    """
    if x.dim() == 0 or len(x) > 0:
        refuse(op, name, "without rows, as the others", f"shape {tuple(x.shape)}")
    return x.detach().new_zeros((1, *x.shape[1:]))
