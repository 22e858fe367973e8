"""Rows of any rank, by their index among those of all, with a gradient."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from sslkern.parallel.processes import Processes


class Route:
    """The way of some rows from the ranks that have them to those that want them.

    Args:
        processes: The ranks.
        name: Of the shards that the rows are of.
        index: Of the rows that this rank wants among those of all ranks, (wanted,) int64.
    """

    def __init__(self, processes: Processes, name: str, index: Tensor) -> None:
        self.processes = processes
        ends = torch.tensor(list(accumulate(processes.rows[name])), device=index.device)
        owner = torch.searchsorted(ends, index, right=True)
        self.order = owner.argsort(stable=True)
        wanted = torch.bincount(owner, minlength=processes.size)
        table = torch.stack(processes.all_gather(wanted[None], [1] * processes.size)).squeeze(1)
        self.wanted: list[int] = wanted.tolist()
        self.asked: list[int] = table[:, processes.rank].tolist()
        begins = ends - torch.tensor(processes.rows[name], device=index.device)
        places = (index - begins[owner])[self.order]
        self.places = self._exchange(places, self.wanted, self.asked)  # of the rows to send

    def take(self, x: Tensor) -> Tensor:
        """The rows that are wanted, of tensors (rows, ...) that all ranks have."""
        rows: Tensor = _Take.apply(self, x)  # type: ignore[no-untyped-call]
        return rows

    def there(self, x: Tensor) -> Tensor:
        """The same without a gradient."""
        found = self._exchange(x[self.places], self.asked, self.wanted)
        return torch.empty_like(found).index_copy_(0, self.order, found)

    def back(self, grad: Tensor, rows: int) -> Tensor:
        """What the ranks have for this rank's rows, added up."""
        found = self._exchange(grad[self.order], self.wanted, self.asked)
        total = found.new_zeros((rows, *found.shape[1:]))
        return total.index_add_(0, self.places, found)

    def _exchange(self, x: Tensor, given: list[int], taken: list[int]) -> Tensor:
        """Rows to each rank, in the order of the ranks, and those from each."""
        to = x.new_empty((sum(taken), *x.shape[1:]))
        group = self.processes.group
        self.processes.run(
            "an all-to-all",
            lambda: dist.all_to_all_single(to, x.contiguous(), taken, given, group=group),
        )
        return to


class _Take(Function):
    @staticmethod
    def forward(ctx: Any, route: Route, x: Tensor) -> Tensor:
        ctx.route, ctx.rows = route, len(x)
        return route.there(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        return None, ctx.route.back(wide, ctx.rows).to(grad.dtype)
