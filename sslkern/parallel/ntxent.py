"""NT-Xent over the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype
from sslkern.parallel.pairs import dot_of_pairs
from sslkern.parallel.processes import Processes, promoted
from sslkern.parallel.softmax import Contrast, log_sum_exp, over_negatives


def ntxent_rows(
    processes: Processes, z_a: Tensor, z_b: Tensor, temperature: Tensor, normalize: bool
) -> Tensor:
    """Losses of this rank's 2B rows against those of all ranks."""
    z_a, z_b = promoted(z_a, z_b)
    scale = 1 / temperature.reshape(())
    lse, _ = own_against_all(processes, "ntxent_loss", z_a, z_b, scale, normalize)
    positive = scale.double() * dot_of_pairs(processes.op, "ntxent_loss", z_a, z_b, normalize)
    return over_negatives(lse, positive.repeat(2)).to(accumulate_dtype(z_a))


def own_against_all(
    processes: Processes, definition: str, z_a: Tensor, z_b: Tensor, scale: Tensor, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of rows [a; b] over the rows of other pairs, (2B,), and their number."""
    z = torch.cat([z_a, z_b])
    pair = processes.indices("z_a", z.device).repeat(2)
    processes = processes.with_rows(z=[2 * n for n in processes.rows["z_a"]])
    how = Contrast(processes, definition, "z", normalize, mirrored=True)
    return log_sum_exp(how, z, z, scale, query_ids=pair, key_ids=pair).rows
