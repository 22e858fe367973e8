"""The processes of open_clip's losses, which say how many there are and which one this is."""

from __future__ import annotations

import torch.distributed as dist

from sslkern.ops._common import refuse


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
