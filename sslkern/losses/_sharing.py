"""What modules hold whose batch several processes may have together."""

from __future__ import annotations

import copy
from typing import Any

import torch.distributed as dist
from torch import nn


class SharedLoss(nn.Module):
    """A loss with the options of `sslkern.parallel`, which its function checks in each call.

    Args:
        gather_distributed: Whether the batch is that of all ranks.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.
        strategy: ``"gather"`` or ``"ring"``; None where the loss knows no other way than one.
    """

    def __init__(
        self,
        gather_distributed: bool,
        process_group: dist.ProcessGroup | None,
        check: bool,
        strategy: str | None = None,
    ) -> None:
        super().__init__()
        self.gather_distributed = gather_distributed
        self.process_group = process_group
        self.check = check
        self.strategy = strategy

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedLoss:
        """A copy is of the same ranks: a group of processes cannot be copied."""
        memo[id(self.process_group)] = self.process_group
        other = memo[id(self)] = self.__class__.__new__(self.__class__)
        other.__dict__ = copy.deepcopy(self.__dict__, memo)
        return other

    @property
    def sharing(self) -> dict[str, Any]:
        """The keyword arguments of the function."""
        options = {
            "gather_distributed": self.gather_distributed,
            "process_group": self.process_group,
            "check": self.check,
        }
        return options if self.strategy is None else options | {"strategy": self.strategy}
