"""Gradients that are differentiated again: ours have none, so the library's code forms them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Call = Callable[..., Any]
Tensors = list[Tensor]

_KNOWN = (Tensor, Number, str, type(None))
"""What has no tensors inside that would go unnoticed, as other sequences than lists may have."""


def run(ours: Call, original: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What ``ours`` returns, with gradients that may be differentiated again.

    Those of the first order are ours. With ``create_graph`` they are of the ``original``, which
    then runs in the backward pass. Only tensors among the arguments get gradients.
    """
    flat, spec = _pytree.tree_flatten((tuple(args), kwargs))
    tensors = list({id(x): x for x in flat if isinstance(x, Tensor)}.values())
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    known = all(isinstance(x, _KNOWN) for x in flat)
    if not wanted or not known or torch.compiler.is_compiling():
        return ours(*args, **kwargs)
    places = {id(x): place for place, x in enumerate(tensors)}
    template = [_Place(places[id(x)]) if isinstance(x, Tensor) else x for x in flat]
    calls = (functools.partial(_call, call, template, spec) for call in (ours, original))
    results: list[Any] = []
    losses = iter(_Loss.apply(results, *calls, *tensors))  # type: ignore[no-untyped-call]
    rest, result_spec = results.pop()
    merged = [next(losses) if x is _LOSS else x for x in rest]
    return _pytree.tree_unflatten(merged, result_spec)


class _Place(int):
    """Where in the list of tensors an argument is: calls that wait for a gradient hold none."""


_LOSS = object()


def _call(
    call: Call, template: Sequence[Any], spec: Any, tensors: Tensors
) -> tuple[Tensors, tuple[list[Any], Any]]:
    """The results that have a gradient; and all others, with how they are to be put together."""
    values = [tensors[x] if isinstance(x, _Place) else x for x in template]
    args, kwargs = _pytree.tree_unflatten(values, spec)
    results, result_spec = _pytree.tree_flatten(call(*args, **kwargs))
    has = [isinstance(x, Tensor) and x.requires_grad for x in results]
    losses = [x for x, is_loss in zip(results, has, strict=True) if is_loss]
    rest = [_LOSS if is_loss else x for x, is_loss in zip(results, has, strict=True)]
    return losses, (rest, result_spec)


class _Loss(torch.autograd.Function):
    """Ours, or the original where a graph of the gradient is wanted."""

    @staticmethod
    def forward(
        ctx: Any, results: list[Any], ours: Any, original: Any, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.ours, ctx.original = ours, original
        ctx.needs = ctx.needs_input_grad[3:]
        ctx.autocast = _autocast_as_now(tensors[0].device.type)
        *ctx.held, rest = _run_on_leaves(ctx, tensors)
        results.append(rest)
        return tuple(loss.detach() for loss in ctx.held[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # raises where the graph was freed
        again = torch.is_grad_enabled()
        if again:
            with ctx.autocast():
                # Views, for a tensor may have been made from another.
                leaves = [x.view_as(x) for x in tensors]
                losses, _ = ctx.original(leaves)
        elif ctx.held is None:  # a graph that is kept; memory is not, in case it is the last time
            with ctx.autocast():
                leaves, losses, _ = _run_on_leaves(ctx, tensors)
        else:
            (leaves, losses), ctx.held = ctx.held, None
        inputs = [x for x, needs in zip(leaves, ctx.needs, strict=True) if needs]
        found = iter(
            torch.autograd.grad(losses, inputs, grads, create_graph=again, allow_unused=True)
        )
        return None, None, None, *(next(found) if needs else None for needs in ctx.needs)


def _run_on_leaves(ctx: Any, tensors: Sequence[Tensor]) -> tuple[Tensors, Tensors, Any]:
    with torch.enable_grad():
        leaves = [
            x.detach().requires_grad_(needs) for x, needs in zip(tensors, ctx.needs, strict=True)
        ]
        losses, rest = ctx.ours(leaves)
    return leaves, losses, rest


def is_autocast(device: str) -> bool:
    """Whether autocast is on, for devices that have none as well."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _autocast_as_now(device: str) -> Callable[[], AbstractContextManager[Any]]:
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled)
