"""open_clip's losses in its processes, which say how many there are and which one this is."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._common import refuse
from sslkern.ops.info_nce import clip_loss
from sslkern.ops.siglip import siglip_loss
from sslkern.parallel.processes import Processes, Sharing


def check_processes(op: str, rank: int, world_size: int) -> None:
    """Reject other processes than those of torch.distributed, which the loss is going to use."""
    if world_size == 1:
        return
    if not (dist.is_available() and dist.is_initialized()):
        refuse(op, "world_size", "1 where torch.distributed is not set up", world_size)
    there = dist.get_rank(), dist.get_world_size()
    if (rank, world_size) != there:
        wanted = f"those of torch.distributed, {there[0]} and {there[1]}"
        refuse(op, "rank and world_size", wanted, f"{rank} and {world_size}")


def clip_of_processes(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None,
    *,
    world_size: int,
    local_loss: bool,
) -> Tensor:
    """The mean over all pairs or, with ``local_loss``, this process's share in it."""
    several = world_size > 1
    loss = clip_loss(
        image_features,
        text_features,
        logit_scale,
        logit_bias,
        reduction="none" if several and local_loss else "mean",
        gather_distributed=several,
    )
    return _mean_of_own("info_nce", loss) if several and local_loss else loss


def siglip_of_processes(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None,
    *,
    world_size: int,
    dist_impl: str | None,
) -> Tensor:
    """That of this process's images and the texts of all."""
    inputs = (image_features, text_features, logit_scale, logit_bias)
    if world_size == 1:
        return siglip_loss(*inputs)
    strategy = "gather" if dist_impl in ("gather", "reduce") else "ring"
    rows = siglip_loss(*inputs, reduction="none", gather_distributed=True, strategy=strategy)
    return _mean_of_own("siglip", rows)


def _mean_of_own(op: str, rows: Tensor) -> Tensor:
    """Of this process's rows; where processes have other numbers of them, its share of the mean.

    The mean over processes is that over all rows in any case.
    """
    processes = Processes(op, Sharing(gather_distributed=True), {})
    count = processes.all_reduce(rows.new_tensor(len(rows), dtype=torch.float64))
    return rows.sum() * (processes.size / count).to(rows.dtype)
