"""A process of its own for one contender: what it uses up, or how it ends, is nobody else's.

They are forked from one process that has imported torch and done nothing, so that a fresh one
costs milliseconds and the import of its library.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sslkern import accuracy
from sslkern.bench.contenders import (
    Case,
    Contender,
    Outcome,
    Problem,
    Size,
    Step,
    UnavailableError,
    differentiate,
)
from sslkern.bench.device import seconds_of
from sslkern.bench.peak import freed_blocks_given_back, measure_here

START_S = 120.0
"""What importing a library and a first small step may take."""
END_S = 2.0
"""What leaving may take."""

REST_S = 0.002
"""Before a step is timed: by then the threads of other children no longer wait actively."""
WAKE_S = 0.02
"""Below this a step is timed after another one, which wakes the threads and fills the caches."""


class EndedError(Exception):
    """A child failed, died or took too long; the message says which, in words for a table."""


@dataclass(frozen=True)
class Task:
    """Whom a child runs, and within which limit."""

    loss: str
    contender: str
    dtype: str
    threads: int
    device: str = "cpu"
    memory_bytes: int | None = None
    """What a size may add to the process's memory; None for no limit. Enforced on Linux's CPU."""

    def find(self) -> tuple[Case, Contender]:
        """The case, and the contender of this name."""
        from sslkern.bench import CASES

        case = CASES[self.loss]
        return case, next(c for c in case.contenders if c.name == self.contender)


@dataclass(frozen=True)
class Agreement:
    """Errors against the float64 reference: of the loss relative, of gradients relative L2."""

    loss: float
    grad: float | None


class Child:
    """The process of a task; every question below waits for its answer.

    Raises:
        UnavailableError: From any question: the contender cannot take part.
        EndedError: From any question: it failed, died or did not answer in time, and is gone.
    """

    def __init__(self, task: Task) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._limit = task.memory_bytes
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(task, there), daemon=True)
        self._process.start()
        there.close()

    def begin(self, size: Size) -> None:
        """Have it import its library and take a small step of the width of ``size``."""
        self._send("begin", size)

    def started(self) -> None:
        """Wait until it has begun."""
        self._receive(START_S)

    def peak(self, size: Size, *, forward_alone: bool, timeout_s: float) -> int | None:
        """Bytes that a step adds, see `sslkern.bench.peak`; later questions are of this size."""
        self._send("peak", size, forward_alone)
        answer: int | None = self._receive(timeout_s)
        return answer

    def seconds(self, timeout_s: float) -> float:
        """Time of one step at the size that was measured last."""
        self._send("seconds")
        answer: float = self._receive(timeout_s)
        return answer

    def agreement(self, timeout_s: float) -> Agreement:
        """Errors of one step at the size that was measured last."""
        self._send("agreement")
        answer: Agreement = self._receive(timeout_s)
        return answer

    def end(self, patience_s: float = END_S) -> None:
        """End the process; a second time does nothing.

        One that waits for a question ends by itself, and gives back what its libraries hold.
        """
        self._pipe.close()
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def __enter__(self) -> Child:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.end()

    def _send(self, *question: object) -> None:
        with contextlib.suppress(ConnectionError):  # a child that is gone is noticed below
            self._pipe.send(question)

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self.end(patience_s=0)
                raise EndedError(f"no answer within {timeout_s:g} s")
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise EndedError(f"its process ended with code {self._process.exitcode}") from None
        if kind == "answer":
            return value
        self.end()
        if kind == "unavailable":
            raise UnavailableError(value)
        if kind == "memory" and self._limit is not None:
            raise EndedError(f"needs more than {self._limit / 2**30:g} GiB")
        raise EndedError(value)


def reason_of(error: Exception) -> str:
    """What went wrong in one line: the type and the first line of the message."""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"


class _Contender:
    """The answers, in the child."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._case, self._contender = task.find()
        self._problem: Problem | None = None
        self._step: Step | None = None
        self._last_s = 0.0

    def begin(self, size: Size) -> None:
        self._contender.prepare(self._problem_of(size))()

    def peak(self, size: Size, forward_alone: bool) -> int | None:
        self._problem = self._step = None  # frees those of the size before
        self._last_s = WAKE_S
        if self._task.memory_bytes is not None and self._task.device == "cpu":
            _limit_memory(self._task.memory_bytes)
        problem = self._problem_of(size)
        self._problem = replace(problem, gradients=0) if forward_alone else problem
        with freed_blocks_given_back():
            return measure_here(self._case, self._contender, self._problem, self._task.device)

    def seconds(self) -> float:
        if self._step is None:
            assert self._problem is not None
            self._step = self._contender.prepare(self._problem)
        time.sleep(REST_S)
        if self._last_s < WAKE_S:
            self._step()
        self._last_s = seconds_of(self._step, self._task.device)
        return self._last_s

    def agreement(self) -> Agreement:
        assert self._problem is not None
        inputs = tuple(x.double() if x.is_floating_point() else x for x in self._problem.inputs)
        target = differentiate(self._case.reference, inputs, self._problem.gradients)
        outcome = self._contender.prepare(self._problem)()
        assert outcome is not None
        return agreement(outcome, target)

    def _problem_of(self, size: Size) -> Problem:
        return self._case.problem(size, getattr(torch, self._task.dtype), self._task.device)


def agreement(outcome: Outcome, target: Outcome) -> Agreement:
    """Errors of an outcome; all gradients count as one vector."""
    loss = accuracy.max_error(outcome.loss, target.loss)
    if not outcome.grads:
        return Agreement(loss, None)
    actual, expected = (
        torch.cat([g.double().flatten() for g in o.grads]) for o in (outcome, target)
    )
    return Agreement(loss, accuracy.l2_error(actual, expected))


def _serve(task: Task, pipe: Connection) -> None:
    """Answer questions until nobody asks."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)  # what libraries print while they load is not our output
    with contextlib.suppress(OSError):  # should memory run out after all, this process is to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(task.threads)
    contender = _Contender(task)
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(contender, name, arguments))


def _answer(contender: _Contender, name: str, arguments: list[Any]) -> tuple[str, object]:
    try:
        return "answer", getattr(contender, name)(*arguments)
    except UnavailableError as error:
        return "unavailable", str(error)
    except Exception as error:  # MemoryError, RuntimeError, a library's own: all are reported
        kind = "memory" if _is_lack_of_memory(error) else "failed"
        return kind, reason_of(error)


def _is_lack_of_memory(error: Exception) -> bool:
    """Of Python, of std::bad_alloc, of torch's allocators."""
    words = ("bad_alloc", "can't allocate memory", "not enough memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _limit_memory(count: int) -> None:
    """Have allocations fail that take this process ``count`` bytes beyond what it has now."""
    with contextlib.suppress(OSError, ValueError):  # no such limit on this system
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        lines = Path("/proc/self/status").read_text().splitlines()
        now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + count, hard))
