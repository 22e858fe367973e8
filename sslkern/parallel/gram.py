"""Products of the columns of a batch whose rows are on several ranks, each of which takes a share.

The rows are gathered in the dtype they have: N x D numbers, where a sum over ranks of the D x D
products would send D x D. Every rank then takes its own columns or, where D > N, its own rows of
products, as csrc/contract/gram.h does for one process, in plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._common import accumulate_dtype
from sslkern.ops._embeddings import full_precision
from sslkern.parallel.gradients import once
from sslkern.parallel.processes import Processes

DIGITS_LOST = 16
"""A sum without its diagonal that is this much smaller is taken again, in float64."""


def share(processes: Processes, count: int) -> slice:
    """Which of ``count`` things this rank takes."""
    first, last = (count * (processes.rank + i) // processes.size for i in (0, 1))
    return slice(first, last)


def centered_columns(z: Tensor) -> Tensor:
    """Rows (N, D) less their mean, in the dtype of the arithmetic."""
    wide = z.double()
    return (wide - wide.mean(0)).to(accumulate_dtype(z))


def column_squares(x: Tensor) -> Tensor:
    """Sums of squares of columns, (D,) float64."""
    return (x * x).sum(0, dtype=torch.float64)


def standardized_columns(z: Tensor, eps: float) -> Tensor:
    """Columns of mean 0 and biased variance var / (var + eps), in the dtype of the arithmetic."""
    x = centered_columns(z)
    variance = column_squares(x) / max(len(x), 1)
    return x * (variance + eps).rsqrt().to(x.dtype)


def off_diagonal_sum(processes: Processes, definition: str, x: Tensor, y: Tensor) -> Tensor:
    """The sum of (x_i . y_j)^2 over different columns of (N, D), which all ranks have; float64.

    ``definition`` is the reference that has second derivatives, which this sum refuses.
    """
    rows, columns = x.shape
    kind = _OfColumns if columns <= rows else _OfRows
    total: Tensor = kind.apply(processes, definition, x, y)  # type: ignore[no-untyped-call]
    return total


class _OfColumns(Function):
    """From this rank's columns of x, with P = x^T y less its diagonal: the gradient is 2 y P^T."""

    @staticmethod
    def forward(ctx: Any, processes: Processes, definition: str, x: Tensor, y: Tensor) -> Tensor:
        own = share(processes, x.shape[1])
        with full_precision(x):
            products = x[:, own].T @ y
        place = torch.arange(own.start, own.stop, device=x.device)
        products.scatter_(1, place[:, None], 0)
        ctx.processes, ctx.definition, ctx.own = processes, definition, own
        ctx.save_for_backward(x, y, products)
        return processes.all_reduce(products.square().sum(dtype=torch.float64))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, products = ctx.saved_tensors
        with torch.no_grad(), full_precision(x):
            factor = (2 * ctx.processes.all_reduce(grad)).to(x.dtype)
            grad_x = torch.zeros_like(x)
            grad_x[:, ctx.own] = factor * (y @ products.T)
            grad_y = factor * (x[:, ctx.own] @ products)
        grads = None, None, grad_x, grad_y
        return once(ctx.processes.op, ctx.definition, grads, (x, y, grad))


class _OfRows(Function):
    """From this rank's rows of A = x x^T and B = y y^T: the sum of A B less that of d_j^2.

    With d_j = x_j . y_j the gradient of a row of x is 2 (B x - y d), a small difference where the
    loss is one. Each row's is taken on one rank, as a whole, before it is rounded.
    """

    @staticmethod
    def forward(ctx: Any, processes: Processes, definition: str, x: Tensor, y: Tensor) -> Tensor:
        own = share(processes, len(x))
        total, diagonal, kept = _products(processes, own, x, y)
        # All ranks look at the same sums, so that they all go on alike.
        if x.dtype != torch.float64 and bool(DIGITS_LOST * (total - diagonal) < diagonal):
            total, diagonal, kept = _products(processes, own, x.double(), y.double())
        ctx.processes, ctx.definition, ctx.own = processes, definition, own
        ctx.save_for_backward(x, y, *kept)
        return total - diagonal

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, a, b, d = ctx.saved_tensors
        own, factor = ctx.own, 2 * ctx.processes.all_reduce(grad)

        def of(z: Tensor, products: Tensor, other: Tensor) -> Tensor:
            found = torch.zeros_like(z)
            wide = products.dtype
            rest = products @ z.to(wide) - other[own].to(wide) * d.to(wide)
            found[own] = (factor.to(wide) * rest).to(z.dtype)
            return found

        with torch.no_grad(), full_precision(x):
            grads = None, None, of(x, b, y), of(y, a, x)
        return once(ctx.processes.op, ctx.definition, grads, (x, y, grad))


def _products(
    processes: Processes, own: slice, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Sums over all ranks of A B and of d_j^2; this rank's rows of A and of B, and d."""
    with full_precision(x):
        a, b = x[own] @ x.T, y[own] @ y.T
    d = (x * y).sum(0, dtype=torch.float64)
    some = d[share(processes, len(d))]
    own_sums = torch.stack([(a * b).sum(dtype=torch.float64), some.square().sum()])
    total, diagonal = processes.all_reduce(own_sums).unbind()
    return total, diagonal, (a, b, d)
