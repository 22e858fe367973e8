"""Gradients that are differentiated again: ours have none, so the library's code forms them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Call = Callable[..., Any]
Tensors = list[Tensor]


def run(ours: Call, original: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What ``ours`` returns, with gradients that may be differentiated again.

    Those of the first order are ours. With ``create_graph`` they are of the ``original``, which
    then runs in the backward pass. Only tensors among the arguments get gradients.
    """
    flat, spec = _pytree.tree_flatten((tuple(args), kwargs))
    inputs = list({id(x): x for x in flat if isinstance(x, Tensor) and x.requires_grad}.values())
    if not inputs or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return ours(*args, **kwargs)
    places = {id(x): place for place, x in enumerate(inputs)}
    found: dict[str, Any] = {}

    def with_inputs(call: Call) -> Callable[[Tensors], Tensors]:
        """A call of the inputs alone, to those of its results that have a gradient."""

        def of_inputs(tensors: Tensors) -> Tensors:
            values = [tensors[places[id(x)]] if id(x) in places else x for x in flat]
            given, named = _pytree.tree_unflatten(values, spec)
            results, found["spec"] = _pytree.tree_flatten(call(*given, **named))
            has = [isinstance(x, Tensor) and x.requires_grad for x in results]
            found["results"], found["has"] = results, has
            return [x for x, has_gradient in zip(results, has, strict=True) if has_gradient]

        return of_inputs

    calls = with_inputs(ours), with_inputs(original)
    losses = iter(_Loss.apply(*calls, *inputs))  # type: ignore[no-untyped-call]
    results = zip(found["results"], found["has"], strict=True)
    merged = [next(losses) if has_gradient else x for x, has_gradient in results]
    return _pytree.tree_unflatten(merged, found["spec"])


class _Loss(torch.autograd.Function):
    """Ours, or the original where a graph of the gradient is wanted."""

    @staticmethod
    def forward(ctx: Any, ours: Any, original: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.ours, ctx.original = ours, original
        ctx.autocast = _autocast_as_now(inputs[0].device.type)
        ctx.held = _run_on_leaves(ours, inputs)
        return tuple(loss.detach() for loss in ctx.held[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors  # raises where the graph was freed
        if torch.is_grad_enabled():
            with ctx.autocast():
                # Views, for an input may have been made from another.
                leaves = [x.view_as(x) for x in inputs]
                losses = ctx.original(leaves)
            return None, None, *_grad(losses, leaves, grads, create_graph=True)
        if ctx.held is None:  # a graph that is kept; memory is not, in case it is the last time
            with ctx.autocast():
                ctx.held = _run_on_leaves(ctx.ours, inputs)
        (leaves, losses), ctx.held = ctx.held, None
        return None, None, *_grad(losses, leaves, grads)


def _run_on_leaves(call: Callable[[Tensors], Tensors], inputs: Sequence[Tensor]) -> Any:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        return leaves, call(leaves)


def _grad(
    losses: Tensors, leaves: Tensors, grads: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(losses, leaves, grads, create_graph=create_graph, allow_unused=True)


def is_autocast(device: str) -> bool:
    """Whether autocast is on, for devices that have none as well."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _autocast_as_now(device: str) -> Callable[[], AbstractContextManager[Any]]:
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled)
