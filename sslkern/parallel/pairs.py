"""Inner products of corresponding rows: the positives, which a rank has at home."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._pairs import dot
from sslkern.parallel.gradients import once
from sslkern.reference._common import NORM_EPS

_ELEMENTS = 1 << 15
"""Of a matrix in float64 at a time: what is read again lies in the cache."""


def dot_of_pairs(op: str, definition: str, x: Tensor, y: Tensor, normalize: bool) -> Tensor:
    """`sslkern.ops._pairs.dot` without a copy of the rows in float64, for the gradient neither."""
    found: Tensor = _Dot.apply(op, definition, x, y, normalize)  # type: ignore[no-untyped-call]
    return found


class _Dot(Function):
    @staticmethod
    def forward(
        ctx: Any, op: str, definition: str, x: Tensor, y: Tensor, normalize: bool
    ) -> Tensor:
        ctx.names, ctx.normalize = (op, definition), normalize
        ctx.save_for_backward(x, y)
        found = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for rows in _chunks(x):
            found[rows] = dot(x[rows], y[rows], normalize)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        grads = torch.empty_like(x), torch.empty_like(y)
        with torch.no_grad():
            for rows in _chunks(x):
                found = _gradients(grad[rows, None], x[rows], y[rows], ctx.normalize)
                for total, part in zip(grads, found, strict=True):
                    total[rows] = part
        op, definition = ctx.names
        return once(op, definition, (None, None, *grads, None), (x, y, grad))


def _chunks(x: Tensor) -> list[slice]:
    size = max(1, _ELEMENTS // x.shape[1])
    return [slice(begin, begin + size) for begin in range(0, len(x), size)]


def _gradients(grad: Tensor, x: Tensor, y: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Of rows, in float64."""
    x, y = x.double(), y.double()
    if not normalize:
        return grad * y, grad * x
    (a, over_x), (b, over_y) = _unit(x), _unit(y)
    cosine = (a * b).sum(1, keepdim=True)
    return grad * (b - cosine * a) * over_x, grad * (a - cosine * b) * over_y


def _unit(z: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows and one over their norms, both zero where the norm is below 1e-12."""
    largest = z.abs().amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    norm = torch.linalg.vector_norm(z / largest, dim=1, keepdim=True) * largest
    tiny = norm < NORM_EPS
    over = torch.where(tiny, 0.0, 1 / norm.masked_fill(tiny, 1.0))
    return z * over, over
