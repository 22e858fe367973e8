"""NT-Xent: how it is run on the emulation, how large sizes walk, and its floors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import sslkern
from sslkern.bench.contenders import Size
from sslkern.bench.ntxent import TEMPERATURE, make_inputs
from sslkern.model.counts import Counts, counts_of
from sslkern.model.fit import CHECK, SMALL, Fit, Walk, fit
from sslkern.model.gpus import Gpu
from sslkern.ops._extension import C

TILE = 128
STEP = 2 * TILE
"""Rows that sizes are multiples of: the tiles of both views are whole."""

PASSES = ("forward", "backward")
PARTED = ("ntxent_tiles_kernel",)
"""Kernels that are launched for a part of the rows at a time."""


@dataclass(frozen=True)
class Run:
    """Counts of each pass by kernel, and the operations of the library's products."""

    kernels: dict[str, dict[str, Counts]]
    product_flop: dict[str, float]
    lines: list[dict[str, Any]]


def check_size(size: Size) -> None:
    """Raise ValueError for what counts of whole tiles say nothing about."""
    if size.rows < STEP or size.rows % STEP or size.dim < 1:
        raise ValueError(
            f"expected N in size {size} to be a multiple of {STEP} and D at least 1, got {size}"
        )


def run(library: Any, walk: Walk, dim: int, dtype: torch.dtype) -> Run:
    """Forward and backward on the emulation, counted."""
    z_a, z_b = make_inputs(Size(walk.tiles * TILE, dim), dtype)
    z_a.requires_grad_()
    z_b.requires_grad_()
    kernels, flop, lines = {}, {}, []
    C.set_column_blocks(walk.tiles * walk.splits)
    library.start()
    try:
        loss = None
        for name in PASSES:
            library.count(True)
            before = C.product_flop()
            if loss is None:
                loss = sslkern.ntxent_loss(z_a, z_b, TEMPERATURE)
            else:
                loss.backward()  # type: ignore[no-untyped-call]
            flop[name] = C.product_flop() - before
            launches = library.counts()
            library.count(False)
            kernels[name] = counts_of(launches)
            lines += [
                line | {"kernel": kernel} for kernel, x in launches.items() for line in x["lines"]
            ]
    finally:
        library.stop()
        C.set_column_blocks()
    findings = library.findings()
    if findings:
        raise RuntimeError("sslkern::model: expected kernels without findings, got " + findings[0])
    return Run(kernels, flop, lines)


@dataclass(frozen=True)
class Fits:
    """Of every kernel of every pass, and of the library's products."""

    kernels: dict[str, dict[str, Fit]]
    product_flop: dict[str, Fit]


def fits(library: Any, dim: int, dtype: torch.dtype) -> Fits:
    """Run the small sizes and the check."""
    runs = [(walk, run(library, walk, dim, dtype)) for walk in (*SMALL, CHECK)]
    kernels, products = {}, {}
    for name in PASSES:
        kernels[name] = {
            kernel: _fit([(walk, r.kernels[name][kernel]) for walk, r in runs])
            for kernel in runs[0][1].kernels[name]
        }
        products[name] = _fit([(walk, {"flop": r.product_flop[name]}) for walk, r in runs])
    return Fits(kernels, products)


def _fit(runs: list[tuple[Walk, Counts]]) -> Fit:
    return fit(runs[:-1], runs[-1])


def walk_of(name: str, kernel: str, size: Size, dtype: torch.dtype) -> Walk:
    """How the operator launches a kernel at a size: what csrc/ops/ntxent.cpp decides."""
    rows = size.rows
    if name == "forward":
        return Walk(rows // TILE, C.column_splits(rows, rows))
    part = C.gradient_rows(rows, rows, dtype.itemsize)
    launches = -(-rows // part) if kernel in PARTED else 1
    return Walk(rows // TILE, C.column_splits(part, rows), launches)


def floors(name: str, size: Size, dtype: torch.dtype, gpu: Gpu) -> dict[str, float]:
    """Seconds that no version with a row of blocks per row of tiles can go below, by unit.

    One product and N^2 exponentials forward; the same and one more product backward. The first is
    that of the kernels, by mma.sync, the other the library's, at the dense peak. Memory: the
    embeddings once, and what is returned.
    """
    n, d = size.rows, size.dim
    share = 1.0 if dtype == torch.float64 else gpu.mma_share
    products = 1 / share + (0 if name == "forward" else 1)
    returned = 12 * n if name == "forward" else n * d * dtype.itemsize
    return {
        "matrix": products * 2 * n * n * d / product_rate(dtype, gpu),
        "exponentials": n * n / (gpu.special * gpu.cycles),
        "memory": (n * d * dtype.itemsize + returned) / gpu.dram_bytes,
    }


def product_rate(dtype: torch.dtype, gpu: Gpu) -> float:
    """Operations per second of a product: the dense peak, of float32 by three tf32 products."""
    if dtype == torch.float64:
        return 2 * gpu.fp64 * gpu.cycles
    if dtype == torch.float32:
        return gpu.dense("tf32") / 3
    return gpu.dense("bf16")
