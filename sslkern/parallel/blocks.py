"""How the rows of every rank meet those of every other: gathered at once, or around a ring.

Gathered, each rank holds all rows: memory O(N D). Around a ring each holds its own, those at work
and those that arrive meanwhile: memory O(N D / W), and the transfer is hidden behind the work.
What the rows of a rank collect on their way is merged and brought home. Where rows meet rows of
their own kind, two ranks need to meet only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from sslkern.parallel.processes import Processes

Tensors = Sequence[Tensor]
Visit = Callable[[int, Tensors], Tensors]
Merge = Callable[[Tensors, Tensors], Tensors]

_TAGS = 64  # of what travels; what is brought home has others


def add(x: Tensors, y: Tensors) -> Tensors:
    """The merge of sums."""
    return [a + b for a, b in zip(x, y, strict=True)]


def visit_blocks(
    processes: Processes, name: str, tensors: Tensors, visit: Visit, merge: Merge = add
) -> Tensors:
    """Have every rank visit the rows of every other.

    Args:
        processes: The ranks.
        name: Of the shards whose rows travel.
        tensors: This rank's, each (rows, ...).
        visit: Gets a rank and its tensors; returns what its rows collect here, each (rows, ...),
            as many tensors on all ranks.
        merge: Of two such collections for the same rows.

    Returns:
        What this rank's rows have collected on all ranks.
    """
    if processes.strategy == "ring":
        return _around(processes, name, tensors, visit, merge)
    return _gathered(processes, name, tensors, visit, merge)


def _gathered(
    processes: Processes, name: str, tensors: Tensors, visit: Visit, merge: Merge
) -> Tensors:
    counts = processes.rows[name]
    blocks = [processes.all_gather(x, counts) for x in tensors]
    collected = [visit(rank, [x[rank] for x in blocks]) for rank in range(processes.size)]
    del blocks
    if not collected[0]:
        return []
    found = [
        processes.to_owners([parts[i] for parts in collected], counts)
        for i in range(len(collected[0]))
    ]
    result: Tensors = [x[0] for x in found]
    for rank in range(1, processes.size):
        result = merge(result, [x[rank] for x in found])
    return result


def _around(
    processes: Processes, name: str, tensors: Tensors, visit: Visit, merge: Merge
) -> Tensors:
    counts, size = processes.rows[name], processes.size
    block: Tensors = tensors
    carried: Callable[[], Tensors] | None = None
    for step in range(size):
        owner, following = ((processes.rank - s) % size for s in (step, step + 1))
        arrives = processes.shift(block, counts[following], 0) if step + 1 < size else None
        with _awaiting(arrives):
            collected = visit(owner, block)
        if carried is not None:
            collected = merge(carried(), collected)
        # What has been collected follows the rows, one step behind them, until it is home.
        carried = processes.shift(collected, counts[following], _TAGS) if collected else None
        block = arrives() if arrives is not None else block
    return carried() if carried is not None else []


def visit_pairs(
    processes: Processes,
    name: str,
    tensors: Tensors,
    visit: Callable[[int, slice, Tensors], Tensors],
    receive: Callable[[slice, Tensors], None],
) -> None:
    """Have each two ranks meet once, on one of them, where both of their rows collect.

    Args:
        processes: The ranks.
        name: Of the shards whose rows meet.
        tensors: This rank's, each (rows, ...).
        visit: Gets a rank, which of this rank's rows meet that one's, and its tensors, of all of
            its rows or of some; returns what these collect here, which may be nothing. Called first
            for this rank itself, whose rows collect nothing but by `visit`.
        receive: Gets what some of this rank's rows have collected on another.
    """
    size, rank, counts = processes.size, processes.rank, processes.rows[name]
    last, ring = size // 2, processes.strategy == "ring"
    blocks = [] if ring else [processes.all_gather(x, counts) for x in tensors]
    block: Tensors = tensors
    away: tuple[slice, Callable[[], Tensors]] | None = None  # rows, and what comes home for them
    for step in range(last + 1):
        owner, following, visitor = ((rank + s) % size for s in (-step, -step - 1, step))
        if not ring:
            block = [x[owner] for x in blocks]
        arrives = processes.shift(block, counts[following], 0) if ring and step < last else None
        mine, theirs = _meeting(rank, owner, counts, size)
        with _awaiting(arrives):
            collected = visit(owner, mine, [x[theirs] for x in block])
        if away is not None:
            receive(away[0], away[1]())
        if step > 0:
            own = _meeting(visitor, rank, counts, size)[1]
            rows = len(range(counts[rank])[own])
            home = processes.shift(collected, rows, _TAGS, by=-step)
            away = (own, home) if collected else None
        block = arrives() if arrives is not None else block
    if away is not None:
        receive(away[0], away[1]())


@contextmanager
def _awaiting(arrives: Callable[[], Tensors] | None) -> Iterator[None]:
    """Where the visit fails, an exchange under way ends first: its memory must not go away."""
    try:
        yield
    except Exception:
        if arrives is not None:
            arrives()
        raise


def _meeting(visitor: int, owner: int, counts: Sequence[int], size: int) -> tuple[slice, slice]:
    """Which rows of two ranks meet on the first of them.

    Ranks that are opposite in the ring visit each other: the lower one's first rows meet the other
    on the lower rank, the rest on the higher one.
    """
    every = slice(None)
    if 2 * ((visitor - owner) % size) != size:
        return every, every
    half = (counts[min(visitor, owner)] + 1) // 2
    return (slice(half), every) if visitor < owner else (every, slice(half, None))
