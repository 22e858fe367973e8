"""What every reference shares: working precision, row normalisation and the reduction."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_EPS = 1e-12
"""Rows with a Euclidean norm below this are taken as zero rows: zero embedding, zero gradient."""


def to_working_dtype(z: Tensor) -> Tensor:
    """Cast float16 and bfloat16 to float32; float32 and float64 stay as they are."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def in_dtype_of(z: Tensor, value: float | Tensor) -> float | Tensor:
    """A parameter, a number or a tensor, in the dtype of ``z``."""
    return value.to(z.dtype) if isinstance(value, Tensor) else value


def normalize_rows(z: Tensor) -> Tensor:
    """Scale each row of ``z`` (N, D) to unit norm; rows with norm below ``NORM_EPS`` become zero.

    ``torch.nn.functional.normalize`` divides such rows by eps instead, which multiplies their
    gradient by 1/eps. A NaN norm is not below eps, so non-finite rows stay visible.
    """
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    tiny = norm < NORM_EPS
    return torch.where(tiny, torch.zeros_like(z), z / norm.masked_fill(tiny, 1.0))


def ordered_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` (N,) in an order that does not depend on the number of threads.

    That of ``Tensor.sum`` does from 32768 elements on; sums of rows of a matrix it splits by rows.
    """
    width = 4096
    if x.shape[0] <= width:
        return x.sum()
    rows = torch.nn.functional.pad(x, (0, -x.shape[0] % width)).reshape(-1, width)
    return ordered_sum(rows.sum(1))


def reduce_loss(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Reduce the per-row ``loss`` (N,): none, sum, or mean = sum(w * loss) / sum(w)."""
    if weight is not None:
        weight = weight.to(loss.dtype)
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return ordered_sum(loss)
    if reduction == "mean":
        divisor = loss.shape[0] if weight is None else ordered_sum(weight)
        return ordered_sum(loss) / divisor
    raise ValueError(f"expected reduction to be 'none', 'mean' or 'sum', got {reduction!r}")
