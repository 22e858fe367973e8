"""Real processes that run functions as ranks of a gloo group; started once for all tests."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist

MOST = 4
PRELOADED = ["pytest", "torch.distributed", "sslkern.methods", "sslkern.parallel"]
TIMEOUT = timedelta(seconds=60)
TO_START = timedelta(seconds=300)


class RankError(AssertionError):
    """What ranks have raised, by rank."""

    def __init__(self, errors: dict[int, str]) -> None:
        super().__init__("\n".join(f"rank {rank}: {text}" for rank, text in errors.items()))
        self.errors = errors


class Ranks:
    """``MOST`` processes; the first W of them are the ranks of a test."""

    def __init__(self, timeout: timedelta = TIMEOUT) -> None:
        context = get_context("forkserver")  # of a process that has nothing but imports
        context.set_forkserver_preload(PRELOADED)
        self._folder = tempfile.TemporaryDirectory()
        store = os.path.join(self._folder.name, "store")
        self._pipes = []
        self.processes = []
        for rank in range(MOST):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, store, timeout, there), daemon=True
            )
            process.start()
            self._pipes.append(here)
            self.processes.append(process)

    def run(
        self, size: int, function: Callable[..., Any], *args: Any, awaited: int | None = None
    ) -> list[Any]:
        """What ``function(group, *args)`` returns on each of ``size`` ranks.

        Or on the first ones that are ``awaited``: the others are to be closed then.

        Raises:
            RankError: If it raises on some.
        """
        for pipe in self._pipes[:size]:
            pipe.send((size, function, args))
        found = [self._receive(rank) for rank in range(size if awaited is None else awaited)]
        errors = {rank: value for rank, (failed, value) in enumerate(found) if failed}
        if errors:
            raise RankError(errors)
        return [value for _, value in found]

    def errors(self, size: int, function: Callable[..., Any], *args: Any) -> dict[int, str]:
        """What each rank raises, and all of them do."""
        with pytest.raises(RankError) as caught:
            self.run(size, function, *args)
        assert sorted(caught.value.errors) == list(range(size))
        return caught.value.errors

    def _receive(self, rank: int) -> tuple[bool, Any]:
        try:
            return self._pipes[rank].recv()
        except EOFError:
            return True, "died"

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, store: str, timeout: timedelta, pipe: Connection) -> None:
    torch.set_num_threads(1)
    # Processes start at different times, which may be further apart than a test's timeout.
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, MOST), rank=rank, world_size=MOST, timeout=TO_START
    )
    groups = {
        size: dist.new_group(list(range(size)), timeout=timeout) for size in range(1, MOST + 1)
    }
    while True:
        size, function, args = pipe.recv()
        try:
            pipe.send((False, function(groups[size], *args)))
        except Exception as error:
            pipe.send((True, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
