"""The processes of a run that ``torch.distributed.run`` has started.

Every rank builds the same method, reads the same batches and draws the same random numbers, all
from the run's seed. The encoders, and what else is large, map a part of the rows on each rank, and
all ranks get the outputs of all rows (`SpreadRows`). So losses, queues, memories, centers and the
optimizer are the same on all ranks, and those of one process. The first rank alone writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from sslkern.methods import Method
from sslkern.parallel.spread import LostRankError, PartsOfRows, SpreadRows

TIMEOUT = timedelta(minutes=10)
"""For ranks to come to a collective. Until then all compute the same, but for the first one, which
writes a checkpoint in between."""
TO_LEAVE = timedelta(seconds=10)
"""For ranks to end, where one ends before its time."""
SPREAD = ("encoder", "text_encoder", "decoder", "generator", "discriminator")
"""Modules of methods that are as large as their user makes them."""

Result = TypeVar("Result")


class Ranks:
    """The processes that train one method together.

    Args:
        processes: All of them; None for a process that is alone.
    """

    def __init__(self, processes: PartsOfRows | None = None) -> None:
        self._processes = processes
        self.rank = 0 if self._processes is None else self._processes.rank
        self.size = 1 if self._processes is None else self._processes.size

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def spread(self, method: Method) -> AbstractContextManager[None]:
        """Within it each rank computes a part of the rows of the method's large modules."""
        if self._processes is None:
            return contextlib.nullcontext()
        return SpreadRows(large_modules(method), self._processes.group)

    def average_gradients(self, method: Method) -> None:
        """Give every parameter the mean over the ranks of its gradients, where it has one.

        After the backward pass and not, as ``DistributedDataParallel`` does, during it, for the
        ranks meet in that, too; a parameter without a gradient has none on any rank.
        """
        if self._processes is None:
            return
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        total = self._processes.all_reduce(torch.cat([grad.flatten() for grad in grads]))
        means = torch.split(total / self.size, [grad.numel() for grad in grads])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))

    def of_first(self, call: Callable[[], Result]) -> Result:
        """What the first rank's call returns or raises, on all ranks; the others do not call."""
        if self._processes is None:
            return call()
        found: list[Any] = [None]
        if self.is_first:
            try:
                found = [(call(), None)]
            except Exception as error:
                found = [(None, error)]
        group = self._processes.group
        self._processes.run(
            "a broadcast", lambda: dist.broadcast_object_list(found, group=group, group_src=0)
        )
        result: Result = found[0][0]
        if found[0][1] is not None:
            raise found[0][1]
        return result

    def all_leave(self, within: timedelta = TO_LEAVE) -> bool:
        """Wait a little for the other ranks to end, too; whether they do.

        Of those that end one after the other, ``torch.distributed.run`` would kill the last ones.
        """
        try:
            if self._processes is not None:
                dist.monitored_barrier(self._processes.group, within)
        except RuntimeError:
            return False
        return True


def large_modules(method: Method) -> list[nn.Module]:
    """Those of ``SPREAD`` that the method has, and the copies of its encoder in teachers."""
    own = [m for name in SPREAD if isinstance(m := getattr(method, name, None), nn.Module)]
    copies = [m for m in method.modules() if _is_copy(m, method.encoder)]
    return list(dict.fromkeys([*own, *copies]))


def _is_copy(module: nn.Module, encoder: nn.Module) -> bool:
    if module is encoder or type(module) is not type(encoder):
        return False
    there, here = ({name: x.shape for name, x in m.state_dict().items()} for m in (module, encoder))
    return there == here


def is_first_here() -> bool:
    """Whether this process may speak: it is alone, or the first of those that were started."""
    return not _is_one_of_several() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def started_ranks() -> Iterator[Ranks]:
    """The processes that ``torch.distributed.run`` has started with this one, until the end.

    Nobody holds their group but torch itself, which so ends its threads here. One that still had to
    let go of a tensor while Python exits would abort the process.

    Raises:
        LostRankError: If they do not all come.
    """
    if not _is_one_of_several():
        yield Ranks()
        return
    try:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise LostRankError(f"the processes of this run do not meet: {error}") from error
    try:
        yield Ranks(PartsOfRows(None))
    finally:
        dist.destroy_process_group()


def _is_one_of_several() -> bool:
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
