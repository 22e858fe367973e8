"""What the public functions share: numbers as tensors, and the checks of their options."""

from __future__ import annotations

from numbers import Real
from typing import Any, NoReturn

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def refuse(op: str, argument: str, requirement: str, got: object) -> NoReturn:
    """Raise the house's error for a wrong value."""
    raise ValueError(f"sslkern::{op}: expected {argument} to be {requirement}, got {got}")


def refuse_second_derivative(op: str, definition: str, *operators: str) -> None:
    """Have the gradients that ``operators`` compute raise where they are differentiated again."""

    def raise_error(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"sslkern::{op}: expected the gradient not to be differentiated again, got a double "
            f"backward. Use sslkern.reference.{definition} where second derivatives are needed."
        )

    for operator in operators:
        torch.library.register_autograd(f"sslkern::{operator}", raise_error)


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums and losses: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def as_scalar_tensor(value: float | Tensor, name: str, op: str, like: Tensor) -> Tensor:
    """Wrap a Python number in a 0-d tensor on the device of ``like``; tensors pass through."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be a number or a tensor with one element, "
            f"got {type(value).__name__}"
        )
    device = like.device if isinstance(like, Tensor) else None
    return torch.full((), float(value), dtype=torch.float64, device=device)


def check_tensor(value: object, name: str, op: str) -> None:
    """Reject what is no tensor in the words that the operators use."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be a tensor, got {type(value).__name__}"
        )


def check_floating(z: Tensor, name: str, op: str) -> None:
    """Reject what is not dense or of none of FLOAT_DTYPES in the words that the operators use."""
    if z.layout != torch.strided:
        raise TypeError(
            f"sslkern::{op}: expected {name} to be a dense tensor, got layout {z.layout}. "
            f"Call .to_dense() first."
        )
    if z.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"sslkern::{op}: expected {name} to be of dtype torch.float64, torch.float32, "
            f"torch.bfloat16 or torch.float16, got {z.dtype}"
        )


def check_constant(value: object, name: str, op: str) -> None:
    """Reject what is no tensor, and a gradient that the loss does not have."""
    check_tensor(value, name, op)
    if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"sslkern::{op}: expected {name} to require no gradient, for it gets none, "
            f"got one that does. Pass {name}.detach()."
        )


def check_same_device(value: Tensor, name: str, other: Tensor, other_name: str, op: str) -> None:
    """Reject a second device in the words that the operators use."""
    if value.device != other.device:
        raise ValueError(
            f"sslkern::{op}: expected {name} to be on the device of {other_name}, "
            f"{other.device}, got {value.device}"
        )


def check_same_dtype(value: Tensor, name: str, other: Tensor, other_name: str, op: str) -> None:
    """Reject a second dtype, outside of autocast, in the words that the operators use."""
    if value.dtype != other.dtype and not torch.is_autocast_enabled(other.device.type):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be of the dtype of {other_name}, {other.dtype}, "
            f"got {value.dtype}"
        )


def check_number(value: float, name: str, op: str) -> None:
    """Reject what is no number; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be a number, got {type(value).__name__}"
        )


def check_positive_number(value: float, name: str, op: str) -> None:
    """Reject what is no number or not positive and finite, as modules do when they are made."""
    check_number(value, name, op)
    if not 0 < value < float("inf"):
        raise ValueError(f"sslkern::{op}: expected {name} to be positive and finite, got {value}")


def check_positive(value: Tensor, name: str, op: str) -> None:
    """Reject what is not floating and, on the CPU, values that are not positive and finite."""
    if not value.is_floating_point():
        raise TypeError(
            f"sslkern::{op}: expected {name} to be of dtype torch.float64, torch.float32, "
            f"torch.bfloat16 or torch.float16, got {value.dtype}"
        )
    if torch.compiler.is_compiling() or value.device.type != "cpu":
        return
    bad = ~((value > 0) & (value < float("inf")))
    if bool(bad.any()):
        raise ValueError(
            f"sslkern::{op}: expected {name} to be positive and finite, "
            f"got {value.detach()[bad].flatten()[0].item():g}"
        )


def check_one_element(value: Tensor, name: str, op: str) -> None:
    """Reject a tensor with more than one element, or none."""
    if value.numel() != 1:
        shape = f"shape {tuple(value.shape)}"
        refuse(op, name, "a number or a tensor with one element", shape)


def check_one_number(
    value: float | Tensor, name: str, op: str, like: Tensor, *, positive: bool = True
) -> None:
    """All that an operator would say of a number, which a rank without rows does not ask."""
    number = as_scalar_tensor(value, name, op, like)
    check_floating(number, name, op)
    check_one_element(number, name, op)
    check_same_device(number, name, like, "the rows", op)
    if positive:
        check_positive(number, name, op)


def check_flags(op: str, **flags: object) -> None:
    """Reject what is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(
                f"sslkern::{op}: expected {name} to be a bool, got {type(value).__name__}"
            )


def check_reduction(reduction: str, op: str) -> None:
    """Reject an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"sslkern::{op}: expected reduction to be 'none', 'mean' or 'sum', got {reduction!r}"
        )


def check_row_weight(weight: Tensor | None, op: str, lengths: dict[str, int], like: Tensor) -> None:
    """Check ``weight`` to be floating, on the device of ``like`` and of one of the ``lengths``."""
    if weight is None:
        return
    check_tensor(weight, "weight", op)
    shapes = " or ".join(f"({name},) = ({n},)" for name, n in lengths.items())
    if weight.dim() != 1 or weight.shape[0] not in lengths.values():
        raise ValueError(
            f"sslkern::{op}: expected weight to be of shape {shapes}, "
            f"got shape {tuple(weight.shape)}"
        )
    if not weight.is_floating_point():
        raise TypeError(
            f"sslkern::{op}: expected weight to be a floating-point tensor, got {weight.dtype}"
        )
    check_same_device(weight, "weight", like, "the embeddings", op)
