"""Sinkhorn-Knopp over the rows of all ranks: the plan, and what else is asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkern.ops._common import check_floating, check_same_device, check_same_dtype, refuse
from sslkern.parallel.potentials import Rows, shared_potentials
from sslkern.parallel.processes import Processes, promoted


class Wanted(NamedTuple):
    """What the plan is to be, what beside it, and where it goes."""

    hard: bool
    potentials: bool
    diagnostics: bool
    out: Tensor | None


def assign_over_ranks(
    processes: Processes,
    rows: Rows,
    first: list[Tensor],
    iterations: int,
    tolerance: float | None,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """The plan and f of this rank's rows; g, usage and entropy of those of all ranks."""
    hard, potentials, diagnostics, out = wanted
    (g,) = shared_potentials(processes, [rows], first, iterations, tolerance)
    if rows.scores.shape[-2] > 0:
        plan, _, f, usage, entropy = rows.plan(
            rows.scores, g, hard=hard, potentials=potentials, diagnostics=diagnostics, out=out
        )
    else:
        plan = torch.empty_like(rows.scores) if out is None else out
        f = usage = entropy = g.new_empty((*g.shape[:-1], 0))
    if diagnostics:
        usage, entropy = _means(processes, rows, usage, entropy)
    return plan, g, f, usage, entropy


def _means(
    processes: Processes, rows: Rows, usage: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """Means over the rows of all ranks, from those of this rank, which has none without rows."""
    count = float(rows.scores.shape[-2])
    own = torch.zeros((*rows.shape[:-1], rows.shape[-1] + 2), dtype=torch.float64)
    own = own.to(rows.scores.device)
    if count > 0:
        own[..., :-2], own[..., -2], own[..., -1] = usage * count, entropy * count, count
    total = processes.all_reduce(own)
    mean = total[..., :-1] / total[..., -1:]
    return mean[..., :-1], mean[..., -1]


def rows_of(
    scores: Tensor,
    queue: Tensor | None,
    marginal: Tensor | None,
    weight: Tensor | None,
    epsilon: float,
    _iterations: int,
    _tolerance: float | None,
    from_probabilities: bool,
) -> Rows:
    """What the iterations read of the arguments of `sslkern.sinkhorn`."""
    scores = scores.detach()
    if queue is not None:
        queue = queue.detach()
        if torch.is_autocast_enabled(scores.device.type):
            scores, queue = promoted(scores, queue)
    return Rows(scores, queue, marginal, weight, float(epsilon), from_probabilities)


def of_one_problem(scores: Tensor) -> Tensor:
    """(B, K): what must be alike on all ranks but for B."""
    if not isinstance(scores, Tensor):
        return scores
    scores = scores.detach()
    return scores[0] if scores.dim() == 3 and len(scores) > 0 else scores


def check_rows(
    op: str, scores: Tensor, queue: Tensor | None, weight: Tensor | None, out: Tensor | None
) -> None:
    """What the operators do not see of a rank without rows."""
    for name, x in (("queue", queue), ("out", out)):
        if x is None:
            continue
        fits = x.dim() == scores.dim() and x.shape[-1] == scores.shape[-1]
        fits = fits and (x.dim() == 2 or len(x) == len(scores))
        if not fits or (name == "out" and x.shape != scores.shape):
            wanted = f"to go with scores of shape {tuple(scores.shape)}"
            refuse(op, name, f"of a shape {wanted}", f"shape {tuple(x.shape)}")
        check_floating(x, name, op)
        check_same_device(x, name, scores, "scores", op)
        check_same_dtype(x, name, scores, "scores", op)
    if out is not None and out.shape[-1] > 1 and out.stride(-1) != 1:
        refuse(op, "out", "of adjacent columns", f"strides {out.stride()}")
    rows = scores.shape[-2] + (0 if queue is None else queue.shape[-2])
    shapes = [(rows,), (*scores.shape[:-2], rows)]
    if weight is not None and weight.shape not in shapes:
        wanted = " or ".join(map(str, dict.fromkeys(shapes)))
        refuse(op, "row_weight", f"of shape {wanted}", f"shape {tuple(weight.shape)}")


def check_arguments_of_no_rows(
    scores: Tensor,
    queue: Tensor | None,
    marginal: Tensor | None,
    weight: Tensor | None,
    *numbers: Any,
) -> None:
    """Where there are no rows, the operator looks at the other arguments beside a made-up one."""
    if scores.shape[-2] + (0 if queue is None else queue.shape[-2]) > 0:
        return
    row = scores.new_zeros((*scores.shape[:-2], 1, scores.shape[-1]))
    one = None if weight is None else weight.new_ones((*weight.shape[:-1], 1))
    rows_of(row, None, marginal, one, *numbers).got(None)
