"""Operators that compare N rows with as many, tile by tile: counted at small sizes.

They form their gradients from parts of the N x N matrix by products of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sslkern
from sslkern.bench import clip, info_nce, ntxent, siglip, supcon
from sslkern.bench.contenders import Size
from sslkern.model.counts import Counts
from sslkern.model.fit import CHECK, SMALL, Fit, Walk, fit
from sslkern.model.runs import Run, run
from sslkern.model.work import PASSES, Counted, Work
from sslkern.ops._extension import C

TILE = 128
MOST_ROWS, MOST_DIMS = 1 << 30, 1 << 15


@dataclass(frozen=True)
class Walking:
    """A loss of N rows against N."""

    name: str
    make_inputs: Callable[[Size, torch.dtype], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    gradients: int  # embeddings with a gradient; one product of the library each
    embeddings: int  # matrices of N rows
    step: int = TILE  # what N is a multiple of, so that all tiles are whole
    formed: bool = False  # whether the forward pass forms the gradients; torch scales them
    summed: bool = False  # whether the forward pass sums columns, of a part of the rows at a time
    default_sizes: tuple[Size, ...] = (Size(32768, 128), Size(32768, 256))

    def check_size(self, size: Size) -> None:
        """Raise ValueError for what counts of whole tiles say nothing about, and for no GPU's size.

        As many rows as the check has are executed, of whatever D.
        """
        if size.rows < self.step or size.rows % self.step or size.dim < 1:
            raise ValueError(
                f"expected N in size {size} to be a multiple of {self.step} and D at least 1,"
                f" got {size}"
            )
        if size.rows > MOST_ROWS:
            raise ValueError(f"expected N in size {size} to be at most {MOST_ROWS}, got {size}")
        if size.dim > MOST_DIMS:
            raise ValueError(f"expected D in size {size} to be at most {MOST_DIMS}, got {size}")

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the inputs."""
        return dtype

    def walk(self, part: str, size: Size, dtype: torch.dtype) -> Walk:
        """How the kernels of a pass are launched at a size: what csrc/ops/packed.h decides."""
        rows = at_once = size.rows
        if self._gives_gradients(part):
            adds = self.gradients > 1
            at_once = C.gradient_rows(rows, rows, size.dim, dtype.itemsize, adds)
        elif self.summed:
            at_once = C.column_rows(rows, rows, dtype.itemsize)
        return Walk(rows // TILE, C.column_splits(at_once, rows), -(-rows // at_once))

    def count(self, library: Any, size: Size, dtype: torch.dtype) -> Counted:
        """By the fits of small sizes."""
        found = fits(library, self, size.dim, dtype)
        kernels, products = {}, {}
        for part in PASSES:
            walk = self.walk(part, size, dtype)
            counts = {kernel: (x.at(walk), x.error) for kernel, x in found.kernels[part].items()}
            kernels[part] = {k: x for k, x in counts.items() if x[0]["launches"] > 0.5}
            products[part] = found.product_flop[part].at(walk)["flop"]
        return Counted(kernels, products)

    def work(self, part: str, size: Size, dtype: torch.dtype) -> Work:
        """Of versions with a row of blocks per row of tiles, which compute all similarities.

        Those of one set of rows are symmetric, and half of them would do.

        Forward one product and N^2 exponentials; the same again backward, and a product for each
        gradient. The first is that of the kernels, the others are the library's. Memory: the
        embeddings once, and what is returned. Where the forward pass forms the gradients, it does
        so from its own product.
        """
        n, d = size.rows, size.dim
        flop = 2 * n * n * d
        read = self.embeddings * n * d * dtype.itemsize
        gives = self._gives_gradients(part)
        return Work(
            bytes=read + (read if gives else 12 * n),
            exponentials=n * n,
            kernel_flop=flop,
            product_flop=self.gradients * flop if gives else 0,
        )

    def _gives_gradients(self, part: str) -> bool:
        return part == "backward" or self.formed


@dataclass(frozen=True)
class Fits:
    """Of every kernel of every pass, and of the library's products."""

    kernels: dict[str, dict[str, Fit]]
    product_flop: dict[str, Fit]


@cache
def fits(library: Any, op: Walking, dim: int, dtype: torch.dtype) -> Fits:
    """Run the small sizes and the check."""
    runs = [run_walk(library, op, walk, dim, dtype) for walk in (*SMALL, CHECK)]
    kernels, products = {}, {}
    for part in PASSES:
        names = dict.fromkeys(name for r in runs for name in r.run.kernels[part])
        kernels[part] = {
            name: _fit([(r.walks[part], r.run.kernels[part].get(name, {})) for r in runs])
            for name in names
        }
        products[part] = _fit([(r.walks[part], {"flop": r.run.product_flop[part]}) for r in runs])
    return Fits(kernels, products)


def _fit(runs: list[tuple[Walk, Counts]]) -> Fit:
    return fit(runs[:-1], runs[-1])


@dataclass(frozen=True)
class Walked:
    """A run, and how its passes were launched."""

    run: Run
    walks: dict[str, Walk]


def run_walk(library: Any, op: Walking, walk: Walk, dim: int, dtype: torch.dtype) -> Walked:
    """Forward and backward of so many tiles, split as the walk says, in parts where a pass is."""
    size = Size(walk.tiles * TILE, dim)
    walks = {}

    def before(part: str) -> None:
        _launch_in_parts(op, part, walk.launches, size, dtype)
        launches = op.walk(part, size, dtype).launches
        C.set_column_blocks(walk.tiles // launches * walk.splits)
        walks[part] = op.walk(part, size, dtype)

    try:
        found = run(library, op.loss, op.make_inputs(size, dtype), before=before)
    finally:
        C.set_column_blocks()
        C.set_part_bytes()
    return Walked(found, walks)


def _launch_in_parts(op: Walking, part: str, launches: int, size: Size, dtype: torch.dtype) -> None:
    """As few bytes as lead to no more launches."""
    most = 1.0
    C.set_part_bytes(1)
    while op.walk(part, size, dtype).launches > launches:
        most *= 1.1
        C.set_part_bytes(int(most))


def _supcon_of_pairs(z: Tensor) -> Tensor:
    return sslkern.supcon_loss(z, torch.arange(len(z)) // 2, supcon.TEMPERATURE)


def _of_own_class(hidden: Tensor, weight: Tensor) -> Tensor:
    """Row by row: where it is a mean, the forward pass forms the gradients of many dims."""
    target = torch.arange(len(hidden))
    return sslkern.linear_cross_entropy(hidden, weight, target, reduction="none").sum()


WALKING = (
    Walking(
        name="ntxent",
        make_inputs=ntxent.make_inputs,
        loss=ntxent.call(sslkern.ntxent_loss),
        step=2 * TILE,  # two views, each of whole tiles
        gradients=1,  # G + G^T times both views
        embeddings=1,
    ),
    Walking(
        name="info_nce",
        make_inputs=clip.make_features,
        loss=partial(sslkern.info_nce_loss, temperature=info_nce.TEMPERATURE),
        gradients=2,
        embeddings=2,
    ),
    Walking(
        name="clip",
        make_inputs=clip.make_inputs,
        loss=sslkern.clip_loss,
        gradients=2,
        embeddings=2,
        summed=True,
    ),
    Walking(
        name="siglip",
        make_inputs=siglip.make_inputs,
        loss=sslkern.siglip_loss,
        gradients=2,
        embeddings=2,
        formed=True,
    ),
    Walking(  # classes of two: the positives of a tile are in the tile itself
        name="supcon",
        make_inputs=supcon.make_inputs,
        loss=_supcon_of_pairs,
        gradients=1,
        embeddings=1,
    ),
    Walking(  # as many classes as rows
        name="linear_cross_entropy",
        make_inputs=clip.make_features,
        loss=_of_own_class,
        gradients=2,
        embeddings=2,
    ),
)
