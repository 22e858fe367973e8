"""Swapped prediction (SwAV), the definition in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkern.reference._common import to_working_dtype
from sslkern.reference.sinkhorn import sinkhorn


def swav_loss(
    high_res: Sequence[Tensor],
    low_res: Sequence[Tensor] = (),
    queue: Sequence[Tensor] | None = None,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Cross entropy of each view against the assignments of others; see `sslkern.swav_loss`."""
    views = [to_working_dtype(z) for z in (*high_res, *low_res)]
    queues = [None] * len(high_res) if queue is None else [to_working_dtype(z) for z in queue]
    total = views[0].new_zeros(())
    for i, scores in enumerate(views[: len(high_res)]):
        with torch.no_grad():
            q: Tensor = sinkhorn(scores, epsilon, iterations, queue=queues[i])
        for v, z in enumerate(views):
            if v != i:
                log_p = (z / temperature).log_softmax(1)
                # A prototype that has no part in the target has none in the loss.
                total = total - torch.where(q == 0, torch.zeros_like(q), q * log_p).sum(1).mean()
    return total / (len(high_res) * (len(views) - 1))
