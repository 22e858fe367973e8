"""What an operator of the model is: the counts of its kernels, and what no version can avoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sslkern.bench.contenders import Size
from sslkern.model.counts import Counts
from sslkern.model.gpus import Gpu

PASSES = ("forward", "backward")


@dataclass(frozen=True)
class Counted:
    """An operator at one size, by pass."""

    kernels: dict[str, dict[str, tuple[Counts, float]]]
    """By kernel, and how far the check of its counts was off: 0 where it was not, or all of it ran.
    """
    product_flop: dict[str, float]
    """Operations of the library's matrix products."""


@dataclass(frozen=True)
class Work:
    """Of a pass: what no version can avoid, of those that the operator's docstring names."""

    bytes: float
    """Moved between the multiprocessors and DRAM, as if no cache kept them from pass to pass."""
    exponentials: float = 0.0
    kernel_flop: float = 0.0
    """Of matrix products that kernels form, by ``mma.sync``."""
    product_flop: float = 0.0
    """Of those that are left to the library, at the dense peak."""

    def seconds(self, dtype: torch.dtype, gpu: Gpu) -> dict[str, float]:
        """By unit, with products of a dtype; the pass takes no less than the largest."""
        products = self.kernel_flop / kernel_rate(dtype, gpu)
        products += self.product_flop / product_rate(dtype, gpu)
        return {
            "matrix": products,
            "exponentials": self.exponentials / (gpu.special * gpu.cycles),
            "memory": self.bytes / gpu.dram_bytes,
        }


def product_rate(dtype: torch.dtype, gpu: Gpu) -> float:
    """Operations per second of a product: the dense peak, of float32 by three tf32 products."""
    if dtype == torch.float32:
        return gpu.dense("tf32") / 3
    return gpu.dense("f64" if dtype == torch.float64 else "bf16")


def kernel_rate(dtype: torch.dtype, gpu: Gpu) -> float:
    """The same of kernels: by ``mma.sync``, of float64 by multiply-adds."""
    if dtype == torch.float64:
        return 2 * gpu.fp64 * gpu.cycles
    return gpu.mma_share * product_rate(dtype, gpu)


def library_rate(dtype: torch.dtype, gpu: Gpu) -> float:
    """The same of the library, whose products of float32 are multiply-adds.

    Those of tf32 are for who allows torch to round so.
    """
    return 2 * gpu.fp32 * gpu.cycles if dtype == torch.float32 else product_rate(dtype, gpu)


class Operator(Protocol):
    """What the command asks for."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def default_sizes(self) -> tuple[Size, ...]:
        """Of the command."""

    def check_size(self, size: Size) -> None:
        """Raise ValueError for a size that the model does not have."""

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of matrix products, for inputs of a dtype."""

    def count(self, library: Any, size: Size, dtype: torch.dtype) -> Counted:
        """On the emulation."""

    def work(self, part: str, size: Size, dtype: torch.dtype) -> Work:
        """Of a pass."""
