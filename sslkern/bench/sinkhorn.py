"""Sinkhorn-Knopp on scores of a batch against K prototypes: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import sslkern
from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    Contender,
    LossFn,
    Outcome,
    Problem,
    Size,
    Step,
    loss_contender,
    standard_contenders,
    steps_of_four,
    working_dtype,
)
from sslkern.bench.peers import import_peer
from sslkern.bench.traffic import as_words, traffic_floor

EPSILON = 0.05
ITERATIONS = 3
DIM = 128
"""Of the embeddings and prototypes, as in SwAV."""


def make_scores(rows: int, prototypes: int, generator: torch.Generator) -> Tensor:
    """Cosines of embeddings with prototypes."""
    z, c = (F.normalize(torch.randn(n, DIM, generator=generator)) for n in (rows, prototypes))
    return z @ c.T


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor]:
    """Scores of N rows."""
    return (make_scores(size.rows, size.dim, torch.Generator().manual_seed(0)).to(dtype),)


def check_size(size: Size) -> None:
    """Any number of rows and prototypes."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and K in size {size} to be at least 1")


def flops(size: Size) -> int:
    """One exponential per element (see soft_cross_entropy), two multiply-adds an iteration."""
    return (2 * 6 + 6 + 4 * ITERATIONS) * size.rows * size.dim


def _prepare_out(problem: Problem) -> Step:
    """The kernel into memory that is there already."""
    (scores,) = problem.inputs
    out = torch.empty_like(scores)
    return lambda: Outcome(sslkern.sinkhorn(scores, EPSILON, ITERATIONS, out=out), ())


@torch.no_grad()
def _swav(scores: Tensor) -> Tensor:
    """As the authors of SwAV do: the transposed matrix, scaled by rows and columns in turn."""
    q = torch.exp(scores.to(working_dtype(scores.dtype)) / EPSILON).t()
    prototypes, rows = q.shape
    q /= torch.sum(q)
    for _ in range(ITERATIONS):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= prototypes
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= rows
    q *= rows
    return q.t()


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.swav_loss")
    return lambda scores: module.sinkhorn(scores, ITERATIONS, EPSILON)


def _load_pot(size: Size) -> LossFn:
    """Transport between uniform masses at the costs -s; it divides by columns first, too."""
    ot: Any = import_peer("POT", "ot")
    options = {"numItermax": ITERATIONS, "stopThr": 0.0, "warn": False}

    def sinkhorn(scores: Tensor) -> Tensor:
        masses = (scores.new_full((n,), 1 / n) for n in scores.shape)
        plan: Tensor = ot.sinkhorn(*masses, -scores, EPSILON, **options)
        return plan * len(scores)

    return sinkhorn


def _prepare_memory_passes(problem: Problem) -> Step:
    """T + 1 reads, and a copy for the plan."""
    s = as_words(problem.inputs[0])
    plan = torch.empty_like(s)

    def step() -> None:
        for _ in range(ITERATIONS + 1):
            s.sum()
        plan.copy_(s)

    return step


CASE = Case(
    name="sinkhorn",
    title=f"Sinkhorn-Knopp, {ITERATIONS} iterations",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=reference.sinkhorn,
    reference_matrices=4,
    flops=flops,
    columns=lambda size: size.dim,
    gradients=0,
    contenders=(
        *standard_contenders("sinkhorn", kernel=1, eager=4, compiled=2),
        Contender("sslkern out=", "the same, into memory that is there already", _prepare_out, 1),
        loss_contender("swav", "the loop of SwAV's authors", lambda size: _swav, matrices=2),
        loss_contender("lightly", "sinkhorn, eager", _load_lightly, matrices=2, peer="lightly"),
        loss_contender("POT", "ot.sinkhorn on tensors", _load_pot, matrices=4, peer="POT"),
        traffic_floor("four reads and a copy of the matrix", _prepare_memory_passes, matrices=1),
    ),
    default_sizes=(Size(64, 3000), Size(4096, 3000)),
    peer_sizes=steps_of_four(64, 16384, 3000),
)
