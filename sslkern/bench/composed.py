"""The losses made of PyTorch's own operations, against lightly's: an entry of `ENTRIES` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench import cross_correlation
from sslkern.bench.contenders import (
    Call,
    Case,
    LossFn,
    Size,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.peers import import_peer

VIEWS = 4
"""Of each sample in MMCR: two of each encoder."""
MMCR_WEIGHT = 5e-3
"""Lightly's default of lmda."""

Load = Callable[[Any, Size], LossFn]
"""A module of lightly and the size -> its loss of the case's inputs."""


@dataclass(frozen=True)
class Entry:
    """One loss; ``<stem>_loss`` is our function and ``lightly.loss.<stem>_loss`` its module."""

    stem: str
    title: str
    about: str
    """What of lightly takes part."""
    load: Load
    dim: int
    """D of the sizes, from 64 rows on."""
    last: int
    """The most rows that are tried."""
    matrices: float
    """See `sslkern.bench.contenders.Contender`; of N x N elements."""
    flops: Callable[[Size], int]
    """The products of forward and backward; other operations are not counted."""
    call: Call = lambda loss_fn: loss_fn
    views: int = 2
    first: int = 64


def _of_columns(size: Size) -> int:
    """Products of the columns of a batch with each other, and their gradient."""
    return 6 * size.rows * size.dim * size.dim


def _of_rows(size: Size) -> int:
    """Products of the rows of a batch with each other, of which no gradient is needed."""
    return 2 * size.rows * size.rows * size.dim


def _tico(loss_fn: LossFn) -> LossFn:
    """At the first step, which changes no state."""
    return lambda a, b: loss_fn(a, b, a.new_zeros(a.shape[1], a.shape[1]))


def _tico_of_lightly(module: Any, size: Size) -> LossFn:
    loss = module.TiCoLoss()
    return lambda a, b: loss(a, b, update_covariance_matrix=False)


def _mmcr(loss_fn: LossFn) -> LossFn:
    return lambda *views: loss_fn(torch.stack(views, dim=1), lmda=MMCR_WEIGHT, normalize=False)


def _mmcr_of_lightly(module: Any, size: Size) -> LossFn:
    loss = module.MMCRLoss(MMCR_WEIGHT)
    return lambda *views: loss(*(torch.stack(half, dim=1) for half in (views[:2], views[2:])))


def _wmse_of_lightly(module: Any, size: Size) -> LossFn:
    """Whitened as one batch, so that the order in which it draws the rows changes nothing."""
    loss = module.WMSELoss(size.dim, w_size=size.rows, track_running_stats=False)
    return lambda a, b: loss(torch.cat([a, b]))


ENTRIES = (
    Entry(
        "tico", "TiCo", "TiCoLoss, eager", _tico_of_lightly, 256, 16384, 0, _of_columns, call=_tico
    ),
    Entry(
        "mmcr",
        "MMCR",
        "MMCRLoss, eager",
        _mmcr_of_lightly,
        128,
        4096,
        0,
        _of_columns,
        call=_mmcr,
        views=VIEWS,
    ),
    Entry(
        "wmse",
        "W-MSE",
        "WMSELoss, eager",
        _wmse_of_lightly,
        128,
        16384,
        0,
        _of_columns,
        first=256,
    ),
    Entry(
        "frossl",
        "FroSSL",
        "FroSSLLoss, eager",
        lambda module, size: lambda *views: module.FroSSLLoss()(list(views)),
        512,
        4096,
        0,
        _of_columns,
        call=lambda loss_fn: lambda *views: loss_fn(list(views)),
    ),
    Entry(
        "koleo",
        "KoLeo",
        "KoLeoLoss, eager",
        lambda module, size: module.KoLeoLoss(),
        256,
        16384,
        4,
        _of_rows,
        views=1,
    ),
)


def _make_inputs(views: int) -> Callable[[Size, torch.dtype], tuple[Tensor, ...]]:
    def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Views of N samples that correlate, neither centered nor of unit variance."""
        pairs = [cross_correlation.make_inputs(size, dtype, seed) for seed in range(views // 2 + 1)]
        return tuple(z for pair in pairs for z in pair)[:views]

    return make_inputs


def _case(entry: Entry) -> Case:
    def load(size: Size) -> LossFn:
        return entry.load(import_peer("lightly", f"lightly.loss.{entry.stem}_loss"), size)

    name = f"{entry.stem}_loss"
    sizes = steps_of_four(entry.first, entry.last, entry.dim)
    matrices = entry.matrices
    return Case(
        name=entry.stem,
        title=entry.title,
        make_inputs=_make_inputs(entry.views),
        check_size=cross_correlation.check_size,
        reference=entry.call(getattr(reference, name)),
        reference_matrices=matrices,
        flops=entry.flops,
        contenders=(
            *standard_contenders(
                name, entry.call, kernel=matrices, eager=matrices, compiled=matrices
            ),
            loss_contender("lightly", entry.about, load, matrices=matrices, peer="lightly"),
        ),
        default_sizes=(sizes[2],),
        tiny_rows=entry.first,
        peer_sizes=sizes,
    )


CASES = tuple(_case(entry) for entry in ENTRIES)
