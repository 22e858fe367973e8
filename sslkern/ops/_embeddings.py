"""What the losses composed of PyTorch's own operations share: checks, and float32 for halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sslkern.ops._common import (
    check_floating,
    check_number,
    check_same_device,
    check_same_dtype,
    check_tensor,
    refuse,
)


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off, which would round the products of float32 matrices."""
    device = z.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def working_dtype(*inputs: Tensor) -> torch.dtype:
    """Of the arithmetic and the loss: float64 where an input is of it, else float32."""
    dtype = torch.float32
    for z in inputs:
        dtype = torch.promote_types(dtype, z.dtype)
    return dtype


def check_rows(z: object, name: str, op: str, letters: str = "ND", least: int = 2) -> None:
    """Reject what is no dense floating tensor of these dimensions, with ``least`` rows."""
    check_tensor(z, name, op)
    assert isinstance(z, Tensor)
    check_floating(z, name, op)
    if z.dim() != len(letters) or z.shape[0] < least or 0 in z.shape[1:]:
        shape = f"({', '.join(letters)})"
        rows = f"{letters[0]} >= {least} and " if least > 1 else ""
        requirement = f"of shape {shape} with {rows}no empty dimension"
        refuse(op, name, requirement, f"shape {tuple(z.shape)}")


def check_same_kind(z: Tensor, name: str, other: Tensor, other_name: str, op: str) -> None:
    """Reject another device or dtype (outside of autocast) than that of ``other``."""
    check_same_device(z, name, other, other_name, op)
    check_same_dtype(z, name, other, other_name, op)


def check_alike(z: Tensor, name: str, other: Tensor, other_name: str, op: str) -> None:
    """Reject another device, dtype (outside of autocast) or shape than that of ``other``."""
    check_same_kind(z, name, other, other_name, op)
    if z.shape != other.shape:
        requirement = f"of the shape of {other_name}, {tuple(other.shape)}"
        refuse(op, name, requirement, f"shape {tuple(z.shape)}")


def check_pair(z_a: Tensor, z_b: Tensor, op: str, least: int = 2) -> None:
    """Reject two views that are not both (N, D) with at least two rows."""
    check_rows(z_a, "z_a", op, least=least)
    check_rows(z_b, "z_b", op, least=least)
    check_alike(z_b, "z_b", z_a, "z_a", op)


def check_views(views: Tensor | Sequence[Tensor], op: str, least: int = 2) -> None:
    """Reject what is no tensor (N, V, D) and no V matrices (N, D), of two views at least."""
    if isinstance(views, Tensor):
        check_rows(views, "views", op, "NVD", least)
        count = views.shape[1]
    elif isinstance(views, Sequence) and not isinstance(views, str):
        for i, z in enumerate(views):
            check_rows(z, f"views[{i}]", op, least=least)
            check_alike(z, f"views[{i}]", views[0], "views[0]", op)
        count = len(views)
    else:
        raise TypeError(
            f"sslkern::{op}: expected views to be a tensor or a sequence of tensors, "
            f"got {type(views).__name__}"
        )
    if count < 2:
        refuse(op, "views", "at least two", str(count))


def stack_views(views: Tensor | Sequence[Tensor]) -> Tensor:
    """Checked views as one tensor (N, V, D) in the working dtype."""
    if isinstance(views, Tensor):
        return views.to(working_dtype(views))
    dtype = working_dtype(*views)
    return torch.stack([z.to(dtype) for z in views], dim=1)


def check_not_negative(value: float, name: str, op: str) -> None:
    """Reject what is no number or not in [0, inf)."""
    check_number(value, name, op)
    if not 0 <= value < math.inf:
        refuse(op, name, "finite and not negative", value)


def check_count(value: int, name: str, op: str) -> None:
    """Reject what is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be an integer, got {type(value).__name__}"
        )
    if value < 1:
        refuse(op, name, "positive", value)
