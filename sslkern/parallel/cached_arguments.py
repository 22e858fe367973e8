"""The arguments of `cached_step`: which modules encoders have, and the checks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from sslkern.ops._common import refuse
from sslkern.parallel.nested import tensors_within
from sslkern.parallel.wrappers import has_static_graph, is_fsdp1

OP = "cached_step"
"""What errors call it."""


def are_several(encoders: Any) -> bool:
    """Whether they are one for each input."""
    return isinstance(encoders, list | tuple | nn.ModuleList)


def modules_within(encoders: Any) -> list[nn.Module]:
    """The outermost modules that can be found in encoders."""
    if are_several(encoders):
        return [m for encoder in encoders for m in modules_within(encoder)]
    if isinstance(encoders, functools.partial):
        return modules_within(encoders.func)
    owner = getattr(encoders, "__self__", encoders)
    return [owner] if isinstance(owner, nn.Module) else []


def all_within(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """They and those in them, each once."""
    return list(dict.fromkeys(m for module in modules for m in module.modules()))


def sizes_of(micro_batch_size: int | Sequence[int], inputs: Sequence[Any]) -> Sequence[int]:
    """The size of micro-batches of each input."""
    if isinstance(micro_batch_size, list | tuple):
        return micro_batch_size
    return [micro_batch_size] * len(inputs)  # type: ignore[list-item]


def rows_of(value: Any) -> int:
    """Of an input."""
    return len(next(tensors_within(value)))


def check_arguments(
    encoders: Any, inputs: Any, loss: Any, micro_batch_size: Any, scaler: Any, sync_gradients: Any
) -> None:
    """All checks of what this rank is given."""
    _check_inputs(inputs)
    _check_encoders(encoders, inputs)
    _check_sizes(micro_batch_size, inputs)
    _check_options(loss, scaler, sync_gradients)


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, list | tuple):
        refuse_type("inputs", "be a list or tuple with an input for each embedding", inputs)
    if not inputs:
        refuse(OP, "inputs", "one or more", "none")
    for i, value in enumerate(inputs):
        _check_input(f"inputs[{i}]", value)


def _check_input(name: str, value: Any) -> None:
    tensors = list(tensors_within(value))
    if not tensors:
        wanted = "be a tensor, or dictionaries, tuples or lists with tensors"
        refuse_type(name, wanted, value)
    shapes = [tuple(x.shape) for x in tensors]
    for shape in shapes:
        if not shape or shape[:1] != shapes[0][:1]:
            refuse(OP, name, "of tensors with the same number of rows", f"shapes {shapes}")
    if any(x.requires_grad for x in tensors):
        wanted = "of tensors that require no gradient, for they get none"
        refuse(OP, name, wanted, "one that does. Pass it detached")


def _check_encoders(encoders: Any, inputs: Sequence[Any]) -> None:
    if not torch.is_grad_enabled():
        refuse(OP, "gradients", "enabled", "torch.no_grad() or torch.inference_mode()")
    several = are_several(encoders)
    if several and len(encoders) != len(inputs):
        refuse(OP, "encoders", f"one, or one for each of {len(inputs)} inputs", len(encoders))
    for encoder in encoders if several else [encoders]:
        if not callable(encoder):
            refuse_type("encoders", "be callable, or a list or tuple of callables", encoder)
    for module in all_within(modules_within(encoders)):
        if is_fsdp1(module):
            wanted = "wrapped by DistributedDataParallel or torch.distributed.fsdp.fully_shard"
            refuse(OP, "encoders", wanted, "FullyShardedDataParallel")
        if has_static_graph(module):
            wanted = "wrapped by DistributedDataParallel without static_graph=True"
            refuse(OP, "encoders", wanted, "one with it")


def _check_sizes(micro_batch_size: Any, inputs: Sequence[Any]) -> None:
    found = sizes_of(micro_batch_size, inputs)
    if len(found) != len(inputs):
        wanted = f"one, or one for each of {len(inputs)} inputs"
        refuse(OP, "micro_batch_size", wanted, len(found))
    for size in found:
        if isinstance(size, bool) or not isinstance(size, int):
            refuse_type("micro_batch_size", "be an integer, or a list or tuple of them", size)
        if size < 1:
            refuse(OP, "micro_batch_size", "positive", size)


def _check_options(loss: Any, scaler: Any, sync_gradients: Any) -> None:
    if not callable(loss):
        refuse_type("loss", "be callable", loss)
    if scaler is not None and not callable(getattr(scaler, "scale", None)):
        refuse_type("scaler", "be a torch.amp.GradScaler or None", scaler)
    if not isinstance(sync_gradients, bool):
        refuse_type("sync_gradients", "be a bool", sync_gradients)


def refuse_type(argument: str, requirement: str, got: object) -> NoReturn:
    """Raise the house's error for a wrong type."""
    raise TypeError(
        f"sslkern::{OP}: expected {argument} to {requirement}, got {type(got).__name__}"
    )
