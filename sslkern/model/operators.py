"""The operators of the model: their inputs, how large sizes walk, and their floors.

All of them compare N rows with as many, tile by tile, and form their gradients from parts of the
N x N matrix by products of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import sslkern
from sslkern.bench import clip, info_nce, ntxent, siglip
from sslkern.bench.contenders import Size
from sslkern.model.fit import Walk
from sslkern.model.gpus import Gpu
from sslkern.ops._extension import C

TILE = 128

PASSES = ("forward", "backward")


@dataclass(frozen=True)
class Operator:
    """A loss of N rows against N."""

    name: str
    make_inputs: Callable[[Size, torch.dtype], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    step: int  # what N is a multiple of, so that all tiles are whole
    parted: str  # the kernel of gradients, launched for a part of the rows at a time
    gradients: int  # embeddings with a gradient; one product of the library each
    embeddings: int  # matrices of N rows
    formed: bool = False  # whether the forward pass forms the gradients; torch scales them
    summed: str = ""  # the kernel of the forward pass, if that sums columns, a part at a time, too

    def check_size(self, size: Size) -> None:
        """Raise ValueError for what counts of whole tiles say nothing about."""
        if size.rows < self.step or size.rows % self.step or size.dim < 1:
            raise ValueError(
                f"expected N in size {size} to be a multiple of {self.step} and D at least 1,"
                f" got {size}"
            )

    def walk(self, name: str, kernel: str, size: Size, dtype: torch.dtype) -> Walk:
        """How a kernel is launched at a size: what csrc/ops/packed.h decides."""
        rows = size.rows
        if name == "backward" or self.formed:
            adds = self.gradients > 1
            part = C.gradient_rows(rows, rows, size.dim, dtype.itemsize, adds)
        elif self.summed:
            part = C.column_rows(rows, rows, dtype.itemsize)
        else:
            part = rows
        launches = -(-rows // part) if kernel in (self.parted, self.summed) else 1
        return Walk(rows // TILE, C.column_splits(part, rows), launches)

    def floors(self, name: str, size: Size, dtype: torch.dtype, gpu: Gpu) -> dict[str, float]:
        """Seconds that no version with a row of blocks per row of tiles can go below, by unit.

        Forward one product and N^2 exponentials; the same again backward, and a product for each
        gradient. The first is that of the kernels, by mma.sync, the others the library's, at the
        dense peak. Memory: the embeddings once, and what is returned. Where the forward pass forms
        the gradients, it does so from its own product.
        """
        n, d = size.rows, size.dim
        gives_gradients = name == "backward" or self.formed
        share = 1.0 if dtype == torch.float64 else gpu.mma_share
        products = 1 / share + (self.gradients if gives_gradients else 0)
        read = self.embeddings * n * d * dtype.itemsize
        returned = read if gives_gradients else 12 * n
        return {
            "matrix": products * 2 * n * n * d / product_rate(dtype, gpu),
            "exponentials": n * n / (gpu.special * gpu.cycles),
            "memory": (read + returned) / gpu.dram_bytes,
        }


def product_rate(dtype: torch.dtype, gpu: Gpu) -> float:
    """Operations per second of a product: the dense peak, of float32 by three tf32 products."""
    if dtype == torch.float64:
        return 2 * gpu.fp64 * gpu.cycles
    if dtype == torch.float32:
        return gpu.dense("tf32") / 3
    return gpu.dense("bf16")


OPERATORS = {
    "ntxent": Operator(
        name="ntxent",
        make_inputs=ntxent.make_inputs,
        loss=ntxent.call(sslkern.ntxent_loss),
        step=2 * TILE,  # two views, each of whole tiles
        parted="ntxent_tiles_kernel",
        gradients=1,  # G + G^T times both views
        embeddings=1,
    ),
    "info_nce": Operator(
        name="info_nce",
        make_inputs=clip.make_features,
        loss=partial(sslkern.info_nce_loss, temperature=info_nce.TEMPERATURE),
        step=TILE,
        parted="info_nce_tiles_kernel",
        gradients=2,
        embeddings=2,
    ),
    "clip": Operator(
        name="clip",
        make_inputs=clip.make_inputs,
        loss=sslkern.clip_loss,
        step=TILE,
        parted="info_nce_tiles_kernel",
        gradients=2,
        embeddings=2,
        summed="info_nce_fwd_kernel",
    ),
    "siglip": Operator(
        name="siglip",
        make_inputs=siglip.make_inputs,
        loss=sslkern.siglip_loss,
        step=TILE,
        parted="siglip_tiles_kernel",
        gradients=2,
        embeddings=2,
        formed=True,
    ),
}
