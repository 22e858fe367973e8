"""How the rows of every rank meet those of every other: gathered at once, or around a ring.

Gathered, each rank holds all rows: memory O(N D). Around a ring each holds its own, those at work
and those that arrive meanwhile: memory O(N D / W), and the transfer is hidden behind the work.
What the rows of a rank collect on their way is merged and brought home.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        collected = visit(owner, block)
        if carried is not None:
            collected = merge(carried(), collected)
        # What has been collected follows the rows, one step behind them, until it is home.
        carried = processes.shift(collected, counts[following], _TAGS) if collected else None
        block = arrives() if arrives is not None else block
    return carried() if carried is not None else []
