"""What losses over columns of a batch share: the sizes of their products, and their checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkern.ops._common import check_number, refuse
from sslkern.parallel.processes import Sharing


def takes_products_of_rows(route: str, z: Tensor) -> bool:
    """Whether the N x N products of rows are taken, not the D x D ones of columns."""
    return route == "gram" or (route == "auto" and z.shape[1] > z.shape[0])


def gram_elements(side: int) -> int:
    """Elements of a matrix of products in the layout of the kernels; see csrc/contract/gram.h."""
    padded = (side + 95) // 96 * 96
    return padded * (padded + 12)


def wants_gradient(*views: Tensor | None) -> bool:
    """Whether a gradient is going to be asked for."""
    return torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in views)


def as_number(value: float, name: str, op: str) -> float:
    """A finite Python number, as a float."""
    check_number(value, name, op)
    if not -math.inf < value < math.inf:
        refuse(op, name, "finite", value)
    return float(value)


def check_statistics(statistics: str, sharing: Sharing, op: str) -> None:
    """Reject an unknown place of statistics, and one without effect."""
    if statistics not in ("global", "local"):
        refuse(op, "statistics", "'global' or 'local'", repr(statistics))
    if statistics != "global" and not sharing.gather_distributed:
        refuse(op, "statistics", "'global' without gather_distributed=True", repr(statistics))


def check_part(z: Tensor, name: str, local: bool, op: str) -> None:
    """Reject one row alone where statistics are those of a rank's own rows."""
    if local and z.shape[0] == 1:
        refuse(op, name, "of no row or at least two on each rank with local statistics", "one")


def check_kept(op: str, keep: bool, needs: tuple[bool, ...]) -> None:
    """An operator that is called by itself must be asked to keep what its gradient needs."""
    if any(needs) and not keep:
        refuse(op, "keep", "True where a view requires grad", "False")
