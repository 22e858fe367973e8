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
    share = logits.new_full((), -math.log(logits.shape[-1]))
    log_m = share if prototype_marginal is None else prototype_marginal.to(logits.dtype).log()
    g = torch.zeros_like(logits[..., 0, :])
    f = -(logits + g.unsqueeze(-2)).logsumexp(-1) if iterations == 0 else torch.zeros_like(log_w)
    for _ in range(iterations):
        g = log_m - (logits + (log_w + f).unsqueeze(-1)).logsumexp(-2)
        before, f = f, -(logits + g.unsqueeze(-2)).logsumexp(-1)
        counted = torch.where(mass > 0, (torch.exp(before - f) - 1).abs(), 0)
        if tolerance is not None and bool((counted.sum(-1) < tolerance).all()):
            break
    log_q = (logits + g.unsqueeze(-2) + f.unsqueeze(-1))[..., :rows, :]
    plan = log_q.exp()
    if hard:
        chosen = torch.nn.functional.one_hot(log_q.argmax(-1), log_q.shape[-1])
        plan = torch.where(plan.isnan(), plan, chosen.to(plan.dtype))
    plan = plan.to(scores.dtype)
    return (plan, (g, f[..., :rows])) if return_potentials else plan
