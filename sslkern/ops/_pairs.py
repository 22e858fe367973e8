"""Inner products of corresponding rows, as the kernels take them of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.reference._common import NORM_EPS


def dot(x: Tensor, y: Tensor, normalize: bool) -> Tensor:
    """Of each row of ``x`` (N, D) with that of ``y``, in float64 as the kernels take norms."""
    x, y = x.double(), y.double()
    return (unit_rows(x) * unit_rows(y)).sum(1) if normalize else (x * y).sum(1)


def unit_rows(z: Tensor) -> Tensor:
    """Rows of unit norm, zero where the norm is below 1e-12; no square overflows."""
    largest = z.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    z = z / largest
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    zero = norm.detach() * largest < NORM_EPS
    return torch.where(zero, torch.zeros_like(z), z / norm.masked_fill(zero, 1.0))
