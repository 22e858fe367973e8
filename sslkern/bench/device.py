"""What depends on the device that a benchmark runs on: its clock, its memory, its name."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from sslkern.bench.environment import available_memory


def default_device() -> str:
    """A CUDA device where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Time that ``work`` takes: on CUDA what passes between two events around it."""
    if device == "cpu":
        started = perf_counter()
        work()
        return perf_counter() - started
    event: Any = torch.cuda.Event
    begin, end = (event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def free_memory(device: str) -> int | None:
    """Bytes that can be allocated; None where the system does not tell."""
    return available_memory() if device == "cpu" else torch.cuda.mem_get_info()[0]


def reset_cuda_peak() -> int:
    """Reset the high-water mark of the allocator, and return what is allocated now."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def cuda_peak() -> int:
    """High-water mark of the allocator in bytes."""
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def name_of(device: str) -> str | None:
    """The name of a CUDA device; None for the CPU, which the stamp names anyway."""
    return None if device == "cpu" else torch.cuda.get_device_name()
