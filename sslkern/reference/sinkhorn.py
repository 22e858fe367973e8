"""Sinkhorn-Knopp, the definition in eager PyTorch: in the log domain, differentiable."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sslkern.reference._common import to_working_dtype


def sinkhorn(
    scores: Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    *,
    queue: Tensor | None = None,
    prototype_marginal: Tensor | None = None,
    row_weight: Tensor | None = None,
    hard: bool = False,
    tolerance: float | None = None,
    from_probabilities: bool = False,
    return_potentials: bool = False,
) -> Any:
    """Assignment of each row to the prototypes; see `sslkern.sinkhorn`."""
    rows = scores.shape[-2]
    logits = to_working_dtype(scores if queue is None else torch.cat((scores, queue), dim=-2))
    logits = logits.log() if from_probabilities else logits / epsilon
    mass = torch.ones_like(logits[..., 0]) if row_weight is None else row_weight.to(logits.dtype)
    log_w = (mass / mass.sum(-1, keepdim=True)).log().expand_as(logits[..., 0])
    counts = (mass > 0).expand_as(log_w)
    share = logits.new_full((), -math.log(logits.shape[-1]))
    log_m = share if prototype_marginal is None else prototype_marginal.to(logits.dtype).log()
    g = torch.zeros_like(logits[..., 0, :])
    f = -(logits + g.unsqueeze(-2)).logsumexp(-1) if iterations == 0 else torch.zeros_like(log_w)
    moves = torch.ones_like(counts[..., :1])  # a problem that has settled stays as it is
    for _ in range(iterations):
        weighted = (logits + (log_w + f).unsqueeze(-1)).where(counts.unsqueeze(-1), -math.inf)
        g = torch.where(moves, log_m - weighted.logsumexp(-2), g)
        before, f = f, -(logits + g.unsqueeze(-2)).logsumexp(-1)
        if tolerance is not None:
            moved = (torch.exp(before - f) - 1).abs().where(counts, 0.0)
            moves = moves & ~(moved.sum(-1, keepdim=True) < tolerance)
    log_q = (logits + g.unsqueeze(-2) + f.unsqueeze(-1))[..., :rows, :]
    plan = log_q.exp()
    if hard:
        chosen = torch.nn.functional.one_hot(log_q.argmax(-1), log_q.shape[-1])
        plan = torch.where(plan.isnan(), plan, chosen.to(plan.dtype))
    plan = plan.to(scores.dtype)
    return (plan, (g, f[..., :rows])) if return_potentials else plan
