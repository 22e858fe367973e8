"""Sinkhorn's problems, of which each rank has some rows of the batch and some of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sslkern

SHARED = ("prototype_marginal",)  # the same on all ranks
BATCH, QUEUE, K = 40, 24, 30


@dataclass(frozen=True)
class Form:
    """What is asked for, of how many problems."""

    options: dict[str, Any]
    problems: int | None = None
    queue: bool = False
    marginal: bool = False
    weight: bool = False
    excluded: bool = False


FORMS = {
    "plain": Form({}),
    "softmax": Form({"iterations": 0}, queue=True),
    "one iteration": Form({"iterations": 1}, queue=True),
    "queue": Form({}, queue=True),
    "low epsilon": Form({"epsilon": 0.005, "iterations": 20}, queue=True),
    "shares": Form({}, marginal=True, weight=True),
    "problems": Form({"iterations": 5}, problems=3, weight=True),
    "everything": Form({"iterations": 5}, 3, queue=True, marginal=True, weight=True),
    "probabilities": Form({"from_probabilities": True}, queue=True, weight=True),
    "tolerance": Form({"tolerance": 0.3, "iterations": 50}, 3, queue=True, weight=True),
    "tolerance that nothing reaches": Form({"tolerance": 1e-300, "iterations": 4}),
    "excluded": Form({}, queue=True, excluded=True),
    "hard": Form({"hard": True}, queue=True),
}


def inputs(form: Form, batch: int, queued: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of all ranks."""
    g = torch.Generator().manual_seed(0)
    each = () if form.problems is None else (form.problems,)
    popular = torch.randn(K, generator=g, dtype=torch.float64)

    def scores(rows: int) -> Tensor:
        x = torch.randn(*each, rows, K, generator=g, dtype=torch.float64)
        x = ((x + popular) / 4).clamp(-1, 1)
        return ((x / 0.4).softmax(-1) ** 2 if form.options.get("from_probabilities") else x).to(
            dtype
        )

    found = {"scores": scores(batch)}
    if form.excluded:  # of some ranks' rows, all
        found["scores"][: batch // 2, ::3] = -torch.inf
    if form.queue:
        found["queue"] = scores(queued)
    rows = batch + (queued if form.queue else 0)
    if form.marginal:
        share = torch.arange(1, K + 1, dtype=torch.float64) ** -0.5
        found["prototype_marginal"] = share / share.sum()
    if form.weight:
        weight = torch.rand(rows, generator=g, dtype=torch.float64)
        weight[: batch // 3] = 0.0  # of a rank, all
        found["row_weight"] = weight
    return found


def of_rank(
    everything: dict[str, Tensor], rank: int, batch: list[int], queued: list[int]
) -> dict[str, Tensor]:
    """This rank's rows, weights as they go with them."""
    mine = {name: everything[name] for name in SHARED if name in everything}
    for name, counts in (("scores", batch), ("queue", queued)):
        if name in everything:
            mine[name] = everything[name].split(counts, -2)[rank]
    if "row_weight" in everything:
        own, *rest = everything["row_weight"].split([sum(batch), *([sum(queued)] * _has(mine))])
        parts = [own.split(batch)[rank], *(x.split(queued)[rank] for x in rest)]
        mine["row_weight"] = torch.cat(parts)
    return mine


def _has(mine: dict[str, Tensor]) -> int:
    return int("queue" in mine)


def results(options: dict[str, Any], **rows: Any) -> dict[str, Tensor]:
    """All that there is to ask for."""
    plan, (g, f), (error, usage, entropy) = sslkern.sinkhorn(
        rows.pop("scores"), **options, **rows, return_potentials=True, return_diagnostics=True
    )
    return {"plan": plan, "g": g, "f": f, "error": error, "usage": usage, "entropy": entropy}
