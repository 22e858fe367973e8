"""Barlow Twins over the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.parallel.gradients import gather_rows, sum_over_ranks
from sslkern.parallel.gram import off_diagonal_sum, share, standardized_columns
from sslkern.parallel.processes import Processes


def correlation_terms(
    processes: Processes, z_a: Tensor, z_b: Tensor, eps: float, local: bool
) -> tuple[Tensor, Tensor]:
    """The sums on the diagonal and beside it, float64; columns are standardized over all rows."""
    if local:  # over those of each rank
        z_a, z_b = (standardized_columns(z, eps) for z in (z_a, z_b))
    a, b = (gather_rows(processes, "z_a", z) for z in (z_a, z_b))
    if not local:
        a, b = (standardized_columns(z, eps) for z in (a, b))
    own = share(processes, a.shape[1])
    correlation = (a[:, own] * b[:, own]).sum(0, dtype=torch.float64) / len(a)
    on = sum_over_ranks(processes, (correlation - 1).square().sum())
    off = off_diagonal_sum(processes, "barlow_twins_loss", a, b)
    return on, off / len(a) ** 2
