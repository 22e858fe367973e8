"""The rows of inputs that are tensors within dictionaries, tuples and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors_within(value: Any) -> Iterator[Tensor]:
    """All tensors, in order; what is no tensor and holds none is passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for x in value:
            yield from tensors_within(x)
    elif isinstance(value, Mapping):
        for x in value.values():
            yield from tensors_within(x)


def narrow_rows(value: Any, first: int, count: int) -> Any:
    """The same with ``count`` rows of every tensor, from row ``first``; mappings become dicts."""
    return map_tensors(lambda x: x.narrow(0, first, count), value)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same of what the function makes of each tensor; mappings become dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        found = [map_tensors(function, x) for x in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, x) for key, x in value.items()}
    return value
