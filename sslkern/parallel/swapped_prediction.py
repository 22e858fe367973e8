"""Swapped prediction over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype
from sslkern.parallel.gradients import reduce_over_ranks
from sslkern.parallel.potentials import Rows
from sslkern.parallel.processes import Processes, promoted


def assigned_rows(
    high_res: Sequence[Tensor], queue: Sequence[Tensor] | None, epsilon: float
) -> list[Rows]:
    """This rank's rows of each problem: a view and its queue."""
    rows = []
    for i, z in enumerate(high_res):
        scores, queued = z.detach(), None if queue is None else queue[i].detach()
        if queued is not None and torch.is_autocast_enabled(z.device.type):
            scores, queued = promoted(scores, queued)
        rows.append(Rows(scores, queued, None, None, float(epsilon)))
    return rows


def mean_over_ranks(
    processes: Processes,
    views: Sequence[Tensor],
    potential: Tensor,
    temperature: float,
    epsilon: float,
) -> Tensor:
    """The mean loss of the rows of all ranks, given the potentials (A, K) of their assignments."""
    rows = views[0].shape[0]
    if rows > 0:
        loss, _ = torch.ops.sslkern.swapped_prediction_fwd(
            list(views), potential, temperature, epsilon
        )
    else:  # nothing, but a part of the graph: in the backward pass the ranks meet again
        loss = sum((z.sum() for z in views), start=potential.new_zeros(()))
        loss = loss.to(accumulate_dtype(views[0]))
    weight = loss.new_full((1,), float(rows))
    return reduce_over_ranks(processes, loss.reshape(1), weight, "mean")
