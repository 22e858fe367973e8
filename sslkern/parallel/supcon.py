"""Contrast by label, the decoupled loss and uniformity over the rows of all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype, refuse
from sslkern.ops._pairs import unit_rows
from sslkern.parallel.gradients import gather_rows, log_sum_over_ranks
from sslkern.parallel.ntxent import own_against_all
from sslkern.parallel.pairs import dot_of_pairs
from sslkern.parallel.positives import PositiveSums, positive_sums
from sslkern.parallel.processes import Processes, promoted
from sslkern.parallel.softmax import Contrast, log_sum_exp

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
    if processes.total("z_a") < 2:
        refuse(processes.op, "z_a", "of at least two rows on all ranks together", "one")
    z_a, z_b = promoted(z_a, z_b)
    scale = 1 / temperature.reshape(())
    lse, _ = own_against_all(processes, "dcl_loss", z_a, z_b, scale, normalize)
    cosine = dot_of_pairs(processes.op, "dcl_loss", z_a, z_b, normalize)
    positive = (scale.double() * cosine).repeat(2)
    if weights is not None:
        a, b = (gather_rows(processes, "z_a", z) for z in (z_a, z_b))
        own = processes.indices("z_a", z_a.device)
        of_positives = weights

        def of_own() -> Tensor:
            return torch.cat([of_positives(a, b)[own], of_positives(b, a)[own]])

        positive = positive * processes.together(z_a.device, of_own)
    return (lse - positive).to(accumulate_dtype(z_a))


def class_sums(
    processes: Processes,
    z: Tensor,
    labels: Tensor,
    temperature: Tensor,
    normalize: bool,
    pairs: bool,
) -> tuple[Tensor, PositiveSums]:
    """What this rank's rows sum over the rows of all ranks of other classes, and of their own."""
    scale = 1 / temperature.reshape(())
    how = Contrast(processes, "supcon_loss", "z", normalize, mirrored=True)
    negative = log_sum_exp(how, z, z, scale, query_ids=labels, key_ids=labels).rows[0]
    x = (unit_rows(z.double()) if normalize else z).to(accumulate_dtype(z))
    of_pairs = negative if pairs else None
    return negative, positive_sums(processes, "z", x, labels, scale, of_pairs)


def mean_potential(processes: Processes, x: Tensor, t: Tensor) -> Tensor:
    """The logarithm of the mean Gaussian potential of all pairs of rows, float64."""
    rows = processes.total("x")
    if rows < 2:
        refuse(processes.op, "x", "of at least two rows on all ranks together", "one")
    each_its_own = processes.indices("x", x.device)
    how = Contrast(processes, "uniformity", "x", mirrored=True)
    # |x - y|^2 = 2 - 2 x.y for unit rows.
    found = log_sum_exp(how, x, x, 2 * t.reshape(()), query_ids=each_its_own, key_ids=each_its_own)
    total = log_sum_over_ranks(processes, found.rows[0])
    return total - math.log(rows - 1) - math.log(rows) - 2 * t.double().reshape(())
