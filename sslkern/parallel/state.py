"""What two forward passes must begin with alike: random numbers and buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


class RandomState:
    """The state of torch's global generators, to be put back."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._others = [(d, torch.get_device_module(d).get_rng_state(d)) for d in devices]

    def restore(self) -> None:
        """Have them draw the same again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others:
            torch.get_device_module(device).set_rng_state(state, device)


class Buffers:
    """The values of buffers, to be put back; also of those that have been assigned anew."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._found = [
            (module, name, buffer, buffer.detach().clone())
            for module in modules
            for name, buffer in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Make the buffers what they were, and as they were."""
        for module, name, buffer, value in self._found:
            buffer.copy_(value)
            setattr(module, name, buffer)


@contextlib.contextmanager
def buffers_stay(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Of moments of no rows nothing is learnt, but for those that are of all ranks."""
    buffers = Buffers(m for m in modules if not isinstance(m, nn.SyncBatchNorm))
    yield
    buffers.restore()
