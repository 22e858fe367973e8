"""VICReg and its terms over the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.parallel.gradients import gather_rows, sum_over_ranks
from sslkern.parallel.gram import centered_columns, column_squares, off_diagonal_sum, share
from sslkern.parallel.processes import Processes
from sslkern.reference._common import NORM_EPS, to_working_dtype


def all_centered(processes: Processes, name: str, z: Tensor) -> Tensor:
    """The rows of all ranks less their mean."""
    return centered_columns(gather_rows(processes, name, z))


def variance_term(processes: Processes, x: Tensor, eps: float) -> Tensor:
    """What the deviations of centered columns lack to 1, float64; each rank looks at some."""
    own = share(processes, x.shape[1])
    variance = column_squares(x[:, own]) / (len(x) - 1)
    lacking = torch.relu(1 - (variance + eps).sqrt()).sum()
    return sum_over_ranks(processes, lacking) / x.shape[1]


def covariance_term(processes: Processes, x: Tensor, normalize: bool) -> Tensor:
    """Squared covariances of different centered columns, float64."""
    rows, dims = x.shape
    if not normalize:
        return off_diagonal_sum(processes, "covariance_loss", x, x) / (dims * (rows - 1) ** 2)
    norm = column_squares(x).sqrt()
    tiny = norm < NORM_EPS
    scale = torch.where(tiny, 0.0, 1 / norm.masked_fill(tiny, 1.0))
    unit = x * scale.to(x.dtype)
    return off_diagonal_sum(processes, "covariance_loss", unit, unit) / dims**2


def invariance_term(processes: Processes, z_a: Tensor, z_b: Tensor) -> Tensor:
    """The mean squared difference of all elements, float64."""
    squares = (to_working_dtype(z_a) - to_working_dtype(z_b)).square()
    elements = processes.total("z_a") * z_a.shape[1]
    return sum_over_ranks(processes, squares.sum(dtype=torch.float64)) / elements


def mean_of_ranks(processes: Processes, name: str, values: Tensor) -> Tensor:
    """The mean over all rows of values that are those of each rank's own rows."""
    rows = processes.rows[name][processes.rank]
    return sum_over_ranks(processes, values.double() * rows) / processes.total(name)
