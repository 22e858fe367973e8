"""What patches ask of the tensors of a call, and how results come in the library's dtype."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.integrations._again import is_autocast
from sslkern.integrations._patch import need
from sslkern.parallel.processes import Sharing, are_many


def need_tensors(*values: object) -> None:
    """Leave anything but tensors to the library."""
    need(all(isinstance(value, Tensor) for value in values), "an argument that is no tensor")


def as_library(loss: Tensor, like: Tensor) -> Tensor:
    """The loss in the dtype of the inputs, as eager PyTorch has it; float32 under autocast."""
    return loss if is_autocast(like.device.type) else loss.to(like.dtype)


def are_several() -> bool:
    """Whether torch.distributed has more than one process."""
    return are_many(Sharing(gather_distributed=True))


def need_even_rows(*values: Tensor) -> None:
    """Leave batches of different sizes to the library, on all processes alike.

    Libraries take it for granted that all processes have as many rows, or weigh each process the
    same; ours weighs each row.
    """
    need(all(value.dim() > 0 for value in values), "an argument without rows")
    own = torch.tensor([len(value) for value in values], device=values[0].device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    even = all(torch.equal(counts, own) for counts in found)
    need(even, "batches of different sizes on the processes")
