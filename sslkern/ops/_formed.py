"""Gradients that a forward pass forms: the autograd of operators that return a sum and them.

Such an operator takes its differentiable inputs first and one flag ``form_<name>`` for each at the
end; it returns the sum, then the gradients of it for an upstream gradient of 1, wide. Another one,
``(grad_sum, input, formed) -> gradient``, multiplies and rounds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkern.ops import _extension


def register_formed(op: str, forward: str, formed_bwd: str, names: tuple[str, ...]) -> None:
    """Give the operator ``forward`` its autograd.

    Args:
        op: What errors call it.
        forward: Its name.
        formed_bwd: The name of the operator that multiplies; it gets no derivative of its own.
        names: Its differentiable inputs.
    """
    count = len(names)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        formed = inputs[-count:]
        for name, needed, is_formed in zip(names, ctx.needs_input_grad, formed, strict=False):
            if needed and not is_formed:
                raise ValueError(
                    f"sslkern::{op}: expected form_{name} to be True where {name} requires grad, "
                    "got False"
                )
        ctx.mark_non_differentiable(*output[1:])
        ctx.formed, ctx.others = formed, len(inputs) - count
        pairs = zip(inputs[:count], output[1:], formed, strict=True)
        ctx.save_for_backward(*(x for pair in pairs if pair[2] for x in pair[:2]))

    def backward(ctx: Any, grad_sum: Tensor, *_: Any) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        multiply: Callable[..., Tensor] = getattr(torch.ops.sslkern, formed_bwd)
        grads = (
            multiply(grad_sum, next(saved), next(saved)) if is_formed else None
            for is_formed in ctx.formed
        )
        return (*grads, *[None] * ctx.others)

    def fake_formed_bwd(grad_sum: Tensor, input: Tensor, formed: Tensor) -> Tensor:
        return input.new_empty(input.shape)

    torch.library.register_autograd(f"sslkern::{forward}", backward, setup_context=setup_context)
    _extension.register_fake(f"sslkern::{formed_bwd}", fake_formed_bwd)
