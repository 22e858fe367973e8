"""The ranks that share a batch, and the collectives that a loss asks of them."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._common import (
    check_flags,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_tensor,
    refuse,
)
from sslkern.parallel.agreement import agree

STRATEGIES = ("gather", "ring")

Result = TypeVar("Result")


class Sharing(NamedTuple):
    """The options that all losses have, as they were given."""

    gather_distributed: bool = False
    process_group: Any = None
    check: bool = True
    strategy: str = "gather"


class Processes:
    """The ranks of a group that hold a batch together, each some rows of it.

    Args:
        op: What errors call the loss.
        sharing: The options that it was given.
        rows: How many rows each rank holds, by the name of the tensor.
    """

    def __init__(self, op: str, sharing: Sharing, rows: dict[str, list[int]]) -> None:
        self.op = op
        self.group = sharing.process_group
        self.strategy = sharing.strategy
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        self.rows = rows

    def with_rows(self, **rows: list[int]) -> Processes:
        """The same ranks, with rows by other names, too."""
        same = copy.copy(self)
        same.rows = self.rows | rows
        return same

    def offset(self, name: str) -> int:
        """Of this rank's rows among those of all ranks."""
        return sum(self.rows[name][: self.rank])

    def total(self, name: str) -> int:
        """Rows of all ranks."""
        return sum(self.rows[name])

    def indices(self, name: str, device: torch.device) -> Tensor:
        """Of this rank's rows among those of all ranks, (rows,) int64."""
        first = self.offset(name)
        return torch.arange(first, first + self.rows[name][self.rank], device=device)

    # ---- collectives, without a gradient: sslkern/parallel/gradients.py has those with one

    def all_reduce(self, x: Tensor, *, largest: bool = False) -> Tensor:
        """The sum over all ranks, or the maximum; the same on all of them, to the bit."""
        to = x.clone(memory_format=torch.contiguous_format)
        kind = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
        self.run("an all-reduce", lambda: dist.all_reduce(to, kind, group=self.group))
        return to

    def all_gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows of each rank, of which ``counts`` says how many there are."""
        most = max(counts)
        if most == 0:
            return [x] * self.size
        padded = x.contiguous()
        if x.shape[0] < most:  # gloo gathers tensors of one shape alone
            padded = x.new_zeros((most, *x.shape[1:]))
            padded[: x.shape[0]] = x
        buffer = x.new_empty((self.size, *padded.shape))
        to = list(buffer)
        self.run("an all-gather", lambda: dist.all_gather(to, padded, group=self.group))
        return [rows[:count] for rows, count in zip(to, counts, strict=True)]

    def to_owners(self, parts: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        """What each rank has for the rows of this one, (ranks, rows, ...).

        ``parts`` holds what this rank has for the rows of each, of which ``counts`` says how many.
        """
        given = torch.cat(list(parts)).contiguous()  # gloo reads memory as it lies
        own = counts[self.rank]
        to = given.new_empty((self.size * own, *given.shape[1:]))
        self.run(
            "an all-to-all",
            lambda: dist.all_to_all_single(
                to, given, [own] * self.size, list(counts), group=self.group
            ),
        )
        return to.reshape(self.size, own, *given.shape[1:])

    def shift(
        self, tensors: Sequence[Tensor], rows: int, tag: int, by: int = 1
    ) -> Callable[[], list[Tensor]]:
        """Send tensors ``by`` ranks ahead while others, of ``rows`` rows, come from as far behind.

        Returns:
            A function that waits for them.
        """
        after, before = (self._global_rank(self.rank + step) for step in (by, -by))
        given = [x.contiguous() for x in tensors]
        taken = [x.new_empty((rows, *x.shape[1:])) for x in given]
        ops = []
        for number, (x, y) in enumerate(zip(given, taken, strict=True)):
            if x.numel():
                ops.append(dist.P2POp(dist.isend, x, after, self.group, tag + number))
            if y.numel():
                ops.append(dist.P2POp(dist.irecv, y, before, self.group, tag + number))
        what = "the exchange with other ranks in the ring"
        works = self.run(what, lambda: dist.batch_isend_irecv(ops)) if ops else []

        def wait() -> list[Tensor]:
            for work in works:
                self.run(what, work.wait)
            given.clear()  # until here what is sent must not go away
            return taken

        return wait

    def together(self, device: torch.device, call: Callable[[], Result]) -> Result:
        """What the caller's function returns; where it fails on some ranks, all raise."""
        error: Exception | None = None
        try:
            found = call()
        except Exception as raised:
            error = raised
        failed = torch.full((self.size,), False, device=device, dtype=torch.uint8)
        failed[self.rank] = error is not None
        ranks = self.all_reduce(failed, largest=True).nonzero().flatten().tolist()
        if error is not None:
            raise error
        if ranks:
            raise RuntimeError(
                f"sslkern::{self.op}: expected a function that was given to succeed on all ranks, "
                f"got an error on rank {ranks[0]}"
            )
        return found

    def run(self, what: str, call: Callable[[], Any]) -> Any:
        """What the call returns; its error says which loss and collective, and why that may be."""
        try:
            return call()
        except RuntimeError as error:
            raise RuntimeError(
                f"sslkern::{self.op}: expected all {self.size} ranks to take part in {what} "
                f"within the timeout of their group, got on rank {self.rank}: {error}"
            ) from error

    def _global_rank(self, rank: int) -> int:
        if self.group is None:
            return rank % self.size
        return dist.get_global_rank(self.group, rank % self.size)


def meet(
    op: str,
    sharing: Sharing,
    shards: dict[str, Tensor],
    options: Mapping[str, object],
    check_here: Callable[[], None],
    *,
    one_shape: bool = True,
) -> Processes | None:
    """Have all ranks agree on a loss before anything of it is computed.

    Args:
        op: What errors call the loss.
        sharing: The options that it was given.
        shards: Tensors of which each rank holds some rows: all but their number must be the same.
        options: What else must be the same on all ranks. Of tensors the dtype is, whether they
            require grad, and the value of one element; see `whole` and `presence` for others.
        check_here: The checks of this rank's own arguments, made in any case. Where it raises, the
            other ranks do, too.
        one_shape: Whether the shards have as many rows as each other.

    Returns:
        The ranks, or None where this process is alone or nothing is to be gathered.
    """
    if not _is_shared(op, sharing):
        check_here()
        return None

    def check() -> None:
        _check_shards(op, shards, one_shape)
        check_here()

    if not sharing.check:
        check()
        size = dist.get_world_size(sharing.process_group)
        return Processes(op, sharing, {name: [len(x)] * size for name, x in shards.items()})
    same = {**options, "strategy": sharing.strategy}
    processes = Processes(op, sharing, agree(op, sharing.process_group, shards, same, check))
    for name in shards:
        if processes.total(name) == 0:
            refuse(op, name, "of at least one row on some rank", "none on all ranks")
    return processes


@torch.no_grad()
def share_of_first_rank(processes: Processes, tensors: Sequence[Tensor]) -> None:
    """Have all ranks hold what the first one does, in place."""
    for x in tensors:
        x.copy_(processes.all_reduce(x if processes.rank == 0 else torch.zeros_like(x)))


def all_rows(x: Tensor, process_group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all ranks in their order, without a gradient: what a queue that all share takes.

    Args:
        x: This rank's rows (N, ...), N >= 0, of any dtype; of one shape but for N on all ranks.
        process_group: The ranks; by default all.

    Returns:
        (sum of N, ...), the same on all ranks; ``x`` itself, detached, in one process.

    Raises:
        TypeError: For what is no tensor.
        ValueError: For a tensor without rows' dimension or that is not dense, and on all ranks
            where they differ in dtype or in the shape of a row.
        RuntimeError: For a rank that does not take part.

    Example:
        >>> import torch, sslkern
        >>> from sslkern.methods import Queue
        >>> queue, keys = Queue(size=16, dim=4), torch.randn(2, 4)
        >>> queue.enqueue(torch.nn.functional.normalize(sslkern.parallel.all_rows(keys)))
    """
    op = "all_rows"
    sharing = Sharing(True, process_group)

    def check_here() -> None:
        check_tensor(x, "x", op)
        if x.dim() == 0:
            refuse(op, "x", "of shape (N, ...)", "shape ()")
        if x.layout != torch.strided:
            refuse(op, "x", "a dense tensor", f"layout {x.layout}")

    if not _is_shared(op, sharing):
        check_here()
        return x.detach()
    with torch.no_grad():
        processes = Processes(op, sharing, agree(op, process_group, {"x": x}, {}, check_here))
    width = math.prod(x.shape[1:])
    own = x.detach().contiguous().view(len(x), width).view(torch.uint8)  # whatever the dtype is
    rows = torch.cat(processes.all_gather(own, processes.rows["x"]))
    return (
        rows.view(x.dtype).view(-1, *x.shape[1:])
        if width
        else x.new_empty(rows.shape[:1] + x.shape[1:])
    )


def _is_shared(op: str, sharing: Sharing) -> bool:
    wanted, group, check, strategy = sharing
    check_flags(op, gather_distributed=wanted, check=check)
    if strategy not in STRATEGIES:
        refuse(op, "strategy", "'gather' or 'ring'", repr(strategy))
    if not wanted:
        if group is not None:
            refuse(op, "process_group", "None without gather_distributed=True", "a group")
        if strategy != "gather":
            refuse(op, "strategy", "'gather' without gather_distributed=True", repr(strategy))
        return False
    if not _is_set_up():
        if group is not None:
            refuse(op, "process_group", "None where torch.distributed is not set up", "a group")
        return False
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"sslkern::{op}: expected process_group to be a torch.distributed.ProcessGroup, "
            f"got {type(group).__name__}"
        )
    if dist.get_rank(group) < 0:
        refuse(op, "process_group", "one that this rank belongs to", "another")
    return are_many(sharing)


def are_many(sharing: Sharing) -> bool:
    """Whether several ranks share the batch, each of which may then be without rows."""
    if not (sharing.gather_distributed and _is_set_up()):
        return False
    return dist.get_world_size(sharing.process_group) > 1


def _is_set_up() -> bool:
    return dist.is_available() and dist.is_initialized()


def _check_shards(op: str, shards: dict[str, Tensor], one_shape: bool) -> None:
    """As the operators check them, but for the rows: a rank may have none."""
    for name, x in shards.items():
        _check_shard(op, name, x)
    (first_name, first), *others = shards.items()
    for name, x in others:
        check_same_device(x, name, first, first_name, op)
        if x.shape[1] != first.shape[1] or (one_shape and len(x) != len(first)):
            rows = len(first) if one_shape else "rows"
            wanted = f"of shape ({rows}, {first.shape[1]}), as {first_name}"
            refuse(op, name, wanted, f"shape {tuple(x.shape)}")
        check_same_dtype(x, name, first, first_name, op)


def promoted(*shards: Tensor) -> list[Tensor]:
    """In the widest of their dtypes, which they may differ in under autocast."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in shards))
    return [x.to(dtype) for x in shards]


def _check_shard(op: str, name: str, x: Tensor) -> None:
    """Any number of rows, also none: what the operators check, who want some."""
    check_tensor(x, name, op)
    check_floating(x, name, op)
    if x.dim() != 2 or x.shape[1] == 0:
        refuse(op, name, "of shape (rows, columns) with some columns", f"shape {tuple(x.shape)}")
