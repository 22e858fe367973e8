"""Collectives with a gradient, and the reduction of losses whose rows are on several ranks.

The gradient that a rank gets is that of the sum of what all ranks differentiate, with respect to
its own rows. Of a loss that is the same on all W ranks that is W times its gradient, and the mean
over the ranks, which DistributedDataParallel takes of the gradients of parameters, is what one
process would have got.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.parallel.processes import Processes
from sslkern.reference._common import ordered_sum


def sum_over_ranks(processes: Processes, x: Tensor) -> Tensor:
    """The sum of ``x`` over all ranks."""
    total: Tensor = _Sum.apply(processes, x)  # type: ignore[no-untyped-call]
    return total


def gather_rows(processes: Processes, name: str, x: Tensor) -> Tensor:
    """The rows of ``x`` (rows, ...) of all ranks, in their order; as many as ``name`` has."""
    rows: Tensor = _Gather.apply(processes, name, x)  # type: ignore[no-untyped-call]
    return rows


def reduce_over_ranks(
    processes: Processes, rows: Tensor, weight: Tensor | None, reduction: str
) -> Tensor:
    """What `reduce_loss` is to one process: the mean or sum over the rows of all ranks.

    With ``"none"`` this rank's rows.
    """
    if weight is not None:
        weight = weight.to(rows.dtype)
        rows = rows * weight
    if reduction == "none":
        return rows
    own = ordered_sum(rows).double()
    if reduction == "sum":
        return sum_over_ranks(processes, own).to(rows.dtype)
    count = own.new_tensor(len(rows)) if weight is None else ordered_sum(weight).double()
    total = sum_over_ranks(processes, torch.stack([own, count]))
    return (total[0] / total[1]).to(rows.dtype)


def log_sum_over_ranks(processes: Processes, x: Tensor) -> Tensor:
    """The log-sum-exp of ``x`` (rows,) over all ranks, some of which may have no row."""
    none = x.new_full((1,), -torch.inf)
    largest = processes.all_reduce(torch.cat([x.detach(), none]).max(), largest=True)
    shift = torch.where(largest.isfinite(), largest, 0)
    return sum_over_ranks(processes, (x - shift).exp().sum()).log() + shift


def once(op: str, definition: str, grads: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    """Gradients that cannot be differentiated again, which a second backward pass is told.

    Args:
        op: What the error calls the loss.
        definition: Which reference has second derivatives.
        grads: The gradients, None where there is none.
        inputs: Tensors that they depend on.
    """
    if not torch.is_grad_enabled():
        return grads
    there = [x for x in grads if x is not None]
    marked = iter(_Once.apply(op, definition, len(there), *there, *inputs))  # type: ignore
    return tuple(None if x is None else next(marked) for x in grads)


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, op: str, definition: str, count: int, *tensors: Tensor) -> Any:
        ctx.names = op, definition
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        op, definition = ctx.names
        raise NotImplementedError(
            f"sslkern::{op}: expected the gradient not to be differentiated again, got a double "
            f"backward. Use sslkern.reference.{definition} in one process where second derivatives "
            f"are needed."
        )


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, processes: Processes, x: Tensor) -> Tensor:
        ctx.processes = processes
        return processes.all_reduce(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, sum_over_ranks(ctx.processes, grad)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, processes: Processes, name: str, x: Tensor) -> Tensor:
        ctx.processes, ctx.name = processes, name
        return torch.cat(processes.all_gather(x, processes.rows[name]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, _ToOwners.apply(ctx.processes, ctx.name, grad)  # type: ignore


class _ToOwners(Function):
    """The sum over all ranks of what each has for this rank's rows: wide, rounded once."""

    @staticmethod
    def forward(ctx: Any, processes: Processes, name: str, x: Tensor) -> Tensor:
        ctx.processes, ctx.name = processes, name
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        counts = processes.rows[name]
        return processes.to_owners(torch.split(wide, counts), counts).sum(0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, gather_rows(ctx.processes, ctx.name, grad)
