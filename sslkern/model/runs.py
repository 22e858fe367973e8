"""An operator on the emulation, counted: at small sizes, for the fits of large ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sslkern.bench.contenders import Size
from sslkern.model.counts import Counts, counts_of
from sslkern.model.fit import CHECK, SMALL, Fit, Walk, fit
from sslkern.model.operators import PASSES, TILE, Operator
from sslkern.ops._extension import C


@dataclass(frozen=True)
class Run:
    """Counts of each pass by kernel, and the operations of the library's products."""

    kernels: dict[str, dict[str, Counts]]
    product_flop: dict[str, float]
    lines: list[dict[str, Any]]


def run(library: Any, op: Operator, walk: Walk, dim: int, dtype: torch.dtype) -> Run:
    """Forward and backward on the emulation, counted."""
    inputs = op.make_inputs(Size(walk.tiles * TILE, dim), dtype)
    for x in inputs:
        x.requires_grad_()
    kernels, flop, lines = {}, {}, []
    C.set_column_blocks(walk.tiles * walk.splits)
    library.start()
    try:
        loss = None
        for name in PASSES:
            library.count(True)
            before = C.product_flop()
            if loss is None:
                loss = op.loss(*inputs)
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


def fits(library: Any, op: Operator, dim: int, dtype: torch.dtype) -> Fits:
    """Run the small sizes and the check."""
    runs = [(walk, run(library, op, walk, dim, dtype)) for walk in (*SMALL, CHECK)]
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
