"""Barlow Twins: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Size,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.peers import import_peer
from sslkern.bench.products import gram_floor, gram_flops

EAGER_MATRICES, COMPILED_MATRICES, LIGHTLY_MATRICES = 6.5, 3.0, 4.2
SIZES = (Size(256, 8192), Size(1024, 2048), Size(2048, 2048))
"""A batch of one device with the projector of the paper, and batches as large as it is wide."""

PEER_SIZES = steps_of_four(64, 4096, 2048)


def make_inputs(size: Size, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views of N samples that correlate, neither centered nor of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.rows, size.dim)
    shared, noise_a, noise_b = (torch.randn(shape, generator=generator) for _ in range(3))
    spread = torch.rand(size.dim, generator=generator) + 0.5
    shift = torch.randn(size.dim, generator=generator)
    z_a, z_b = ((shared + noise) * spread + shift for noise in (noise_a, noise_b))
    return z_a.to(dtype), z_b.to(dtype)


def check_size(size: Size) -> None:
    """Statistics of columns need two rows."""
    if size.rows < 2 or size.dim < 1:
        raise ValueError(f"expected N in size {size} to be at least 2, and D at least 1")


def columns(size: Size) -> int:
    """The matrix that a definition holds is D x D: as many elements with N rows."""
    return max(1, size.dim * size.dim // size.rows)


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.barlow_twins_loss")
    loss_fn: LossFn = module.BarlowTwinsLoss()
    return loss_fn


CASE = Case(
    name="cross_correlation",
    title="Barlow Twins",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=cast(LossFn, reference.barlow_twins_loss),
    reference_matrices=EAGER_MATRICES,
    flops=gram_flops,
    contenders=(
        *standard_contenders("barlow_twins_loss", eager=EAGER_MATRICES, compiled=COMPILED_MATRICES),
        loss_contender(
            "lightly",
            "BarlowTwinsLoss, eager",
            _load_lightly,
            matrices=LIGHTLY_MATRICES,
            peer="lightly",
        ),
        gram_floor(),
    ),
    default_sizes=SIZES,
    peer_sizes=PEER_SIZES,
    columns=columns,
)
