"""The decoupled contrastive loss over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype, check_positive, refuse
from sslkern.ops._pairs import dot
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.ntxent import own_against_all
from sslkern.parallel.processes import Processes, promoted

Weights = Callable[[Tensor, Tensor], Tensor]  # of the positives of one direction


def dcl_rows(
    processes: Processes,
    z_a: Tensor,
    z_b: Tensor,
    temperature: Tensor,
    normalize: bool,
    weights: Weights | None,
) -> Tensor:
    """Losses of this rank's 2B rows, whose negatives are those of all ranks.

    Weights are of the rows of all ranks, which are gathered for them.
    """
    check_positive(temperature, "temperature", processes.op)
    if processes.total("z_a") < 2:
        refuse(processes.op, "z_a", "of at least two rows on all ranks together", "one")
    z_a, z_b = promoted(z_a, z_b)
    scale = 1 / temperature
    lse, _ = own_against_all(processes, "dcl_loss", z_a, z_b, scale, normalize)
    positive = (scale.double().reshape(()) * dot(z_a, z_b, normalize)).repeat(2)
    if weights is not None:
        a, b = (gather_rows(processes, "z_a", z) for z in (z_a, z_b))
        own = processes.indices("z_a", z_a.device)
        positive = positive * torch.cat([weights(a, b)[own], weights(b, a)[own]])
    return (lse - positive).to(accumulate_dtype(z_a))
