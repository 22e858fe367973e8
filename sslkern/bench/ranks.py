"""Real processes that run functions as the ranks of a gloo group, for measurements.

They are forked from one process that has imported everything and done nothing, so that a fresh
process per measurement costs milliseconds.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from sslkern.bench.peak import give_freed_blocks_back

TIMEOUT = timedelta(seconds=300)


class Ranks:
    """Processes on one thread each; the first W of them are the ranks of a measurement.

    Args:
        count: How many.
        sizes: The numbers of ranks that measurements have; by default all of them.
        give_back: Whether freed blocks of 64 KiB or more leave the process at once, so that a peak
            is that of what is alive (glibc): see `sslkern.bench.peak`. It costs time.
    """

    def __init__(self, count: int, sizes: Iterable[int] = (), *, give_back: bool = False) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["sslkern.bench.scaling"])
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        store = os.path.join(self._folder.name, "store")
        for rank in range(count):
            here, there = context.Pipe()
            arguments = (rank, count, tuple(sizes), store, give_back, there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(group, *args)`` returns on each of ``size`` ranks, one of the sizes.

        Raises:
            RuntimeError: If it raises on some, with what the first of them says.
        """
        for pipe in self._pipes[:size]:
            pipe.send((size, function, args))
        found = [self._receive(rank) for rank in range(size)]
        for rank, (failed, value) in enumerate(found):
            if failed:
                raise RuntimeError(f"rank {rank} of {size}: {value}")
        return [value for _, value in found]

    def _receive(self, rank: int) -> tuple[bool, Any]:
        try:
            failed, value = self._pipes[rank].recv()
        except (EOFError, ConnectionError):
            return True, "died"
        return failed, value

    def __enter__(self) -> Ranks:
        """Themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all processes."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            process.close()
            pipe.close()
        self._folder.cleanup()


def _serve(
    rank: int, count: int, sizes: tuple[int, ...], store: str, give_back: bool, pipe: Connection
) -> None:
    torch.set_num_threads(1)
    if give_back:
        give_freed_blocks_back()
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=TIMEOUT
    )
    groups: dict[int, Any] = {count: dist.group.WORLD}
    for size in sorted(set(sizes) - {count}):
        groups[size] = dist.new_group(list(range(size)), timeout=TIMEOUT)
    while True:
        try:
            size, function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, function(groups[size], *args)))
        except Exception as error:
            pipe.send((True, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
