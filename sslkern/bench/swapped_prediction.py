"""SwAV's loss with multi-crop: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench import sinkhorn
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Problem,
    Size,
    Step,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.peers import import_peer
from sslkern.bench.traffic import as_words, traffic_floor

HIGH, LOW = 2, 6
"""Views, as on ImageNet."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Scores of all views, of unrelated images: as the training begins."""
    g = torch.Generator().manual_seed(0)
    return tuple(sinkhorn.make_scores(size.rows, size.dim, g).to(dtype) for _ in range(HIGH + LOW))


def flops(size: Size) -> int:
    """Operations of forward and backward: memory is the limit, and this its companion.

    An exponential per element (see soft_cross_entropy) of each view and each assignment and pass,
    and those of the iterations; three operations around each, and the sum of the targets.
    """
    exponentials = 2 * (HIGH + LOW) + 2 * HIGH + sinkhorn.ITERATIONS * HIGH
    return (2 * 6 + 9) * exponentials * size.rows * size.dim


def of_views(loss_fn: LossFn) -> LossFn:
    """The loss of all views in a row, the high ones first."""
    return lambda *views: loss_fn(views[:HIGH], views[HIGH:])


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.swav_loss")
    loss_fn = module.SwaVLoss()
    return lambda *views: loss_fn(list(views[:HIGH]), list(views[HIGH:])).sum()  # its shape is (1,)


def _prepare_memory_passes(problem: Problem) -> Step:
    """All views read, and read again while their gradients are written.

    And those that are assigned read once for each iteration.
    """
    views = [as_words(z) for z in problem.inputs]
    grads = [torch.empty_like(z) for z in views]

    def step() -> None:
        for z in views[:HIGH]:
            for _ in range(sinkhorn.ITERATIONS):
                z.sum()
        for z in views:
            z.sum()
        for z, grad in zip(views, grads, strict=True):
            grad.copy_(z)

    return step


CASE = Case(
    name="swav",
    title=f"SwAV, {HIGH} + {LOW} crops",
    make_inputs=make_inputs,
    check_size=sinkhorn.check_size,
    reference=of_views(reference.swav_loss),
    reference_matrices=60,
    flops=flops,
    columns=lambda size: size.dim,
    contenders=(
        *standard_contenders("swav_loss", of_views, kernel=9, eager=60, compiled=40),
        loss_contender("lightly", "SwaVLoss, eager", _load_lightly, matrices=60, peer="lightly"),
        traffic_floor(
            "all views read twice, the assigned ones three times more, all gradients written",
            _prepare_memory_passes,
            matrices=8,
        ),
    ),
    default_sizes=(Size(256, 3000),),
    peer_sizes=steps_of_four(16, 4096, 3000),
)
