"""Measures the contenders of a case against each other: agreement, time, peak memory.

Times are taken in rounds. Every round runs each contender once, so that a drift of the clock speed
or a busy neighbour hits all alike, and each round starts with another contender, so that none
always runs in the cache that the same predecessor left. The first call at a size (which may
compile) and the first round are discarded.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from sslkern.bench import child, memory
from sslkern.bench.contenders import (
    Case,
    Contender,
    Outcome,
    Problem,
    Size,
    Step,
    UnavailableError,
    differentiate,
    working_dtype,
)
from sslkern.bench.device import free_memory, seconds_of
from sslkern.bench.results import Row

MIN_ROUNDS, MAX_ROUNDS = 3, 50
TIMED_SECONDS = 60.0
"""What all timed rounds of a run may take together when the number of repeats is not given. With
compilation, references and memory on top, a default run stays below four minutes on two cores."""


class Progress(Protocol):
    """What the harness tells about its work."""

    def phase(self, text: str, steps: int = 1) -> None:
        """Begin a phase."""

    def advance(self) -> None:
        """One step done."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    sizes: tuple[Size, ...]
    dtype: torch.dtype
    contenders: tuple[Contender, ...]
    threads: int
    repeats: int | None = None
    """Timed rounds; None chooses them so that the whole run takes about `TIMED_SECONDS`."""
    measure_memory: bool = True
    device: str = "cpu"
    timed_s: float = TIMED_SECONDS
    """What the timed rounds of all sizes may take together where ``repeats`` is None."""
    measure_errors: bool = True


@dataclass
class Entry:
    """A contender at one size: how to run it and where its numbers go."""

    contender: Contender
    row: Row
    step: Step | None = None
    device: str = "cpu"

    @property
    def running(self) -> bool:
        """Whether it takes part in the rounds."""
        return self.row.status == "ok"

    def attempt(self, work: Callable[[], object]) -> None:
        """Do ``work``; what goes wrong in it takes this contender out and nobody else."""
        try:
            work()
        except UnavailableError as error:
            self.row.drop("skipped", str(error))
        except Exception as error:  # MemoryError, RuntimeError, a compiler's own: all are reported
            self.row.drop("failed", child.reason_of(error))
        if not self.running:
            self.step = None  # frees its buffers

    def time_step(self) -> None:
        """Run the step once and keep its time."""
        assert self.step is not None
        self.row.times_s.append(seconds_of(self.step, self.device))


def run_size(case: Case, plan: Plan, size: Size, progress: Progress) -> list[Row]:
    """Measure all contenders at one size."""
    problem = case.problem(size, plan.dtype, plan.device)
    entries = [_entry(case, contender, problem, plan) for contender in plan.contenders]
    if any(entry.contender.compiles for entry in entries):
        torch._dynamo.reset()  # forget earlier sizes: none may be served by a dynamic graph
    target = None
    if plan.measure_errors:
        progress.phase(f"{size}: float64 reference")
        target = _target(case, problem, plan)
    for entry in entries:
        _warm_up(case, entry, problem, target, progress)
    _time_rounds(entries, plan, size, progress)
    for entry in entries:
        entry.step = None
    if plan.measure_memory:
        _measure_memory(case, entries, plan, size, progress)
    return [entry.row for entry in entries]


def _entry(case: Case, contender: Contender, problem: Problem, plan: Plan) -> Entry:
    dtype = str(problem.dtype).removeprefix("torch.")
    row = Row(case.name, problem.size, dtype, contender.name, is_floor=contender.is_floor)
    row.passes = case.passes
    return Entry(contender, row, device=plan.device)


def _target(case: Case, problem: Problem, plan: Plan) -> Outcome | None:
    """The float64 reference on the same rounded inputs; None if it does not fit into memory."""
    matrices = case.reference_matrices
    if _shortage(case, matrices, problem.size, torch.float64, plan.device) is not None:
        return None
    inputs = tuple(x.double() if x.is_floating_point() else x for x in problem.inputs)
    return differentiate(case.reference, inputs, problem.gradients)


def _warm_up(
    case: Case, entry: Entry, problem: Problem, target: Outcome | None, progress: Progress
) -> None:
    """First call at this size: loads, compiles, and shows how well the contender agrees."""
    contender = entry.contender
    compiling = " (compiles, takes a while)" if contender.compiles else ""
    progress.phase(f"{problem.size}: first call of {contender.name}{compiling}")

    def first_call() -> None:
        working = working_dtype(problem.dtype)
        matrices = contender.matrices
        shortage = _shortage(case, matrices, problem.size, working, entry.device)
        if shortage is not None:
            raise UnavailableError(shortage)
        entry.step = contender.prepare(problem)
        outcome = entry.step()
        if outcome is not None and target is not None:
            found = child.agreement(outcome, target)
            entry.row.loss_error, entry.row.grad_error = found.loss, found.grad

    entry.attempt(first_call)


def _shortage(
    case: Case, matrices: float, size: Size, dtype: torch.dtype, device: str
) -> str | None:
    """Why so many matrices of all similarities do not fit into memory, if they do not."""
    needed = int(matrices * size.rows * case.columns(size) * dtype.itemsize)
    available = free_memory(device)
    if available is None or needed < available:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are available"


def _time_rounds(entries: Sequence[Entry], plan: Plan, size: Size, progress: Progress) -> None:
    progress.phase(f"{size}: warm-up round")
    seconds = seconds_of(lambda: _round(entries, shift=0), plan.device)
    rounds = plan.repeats or affordable_rounds(seconds, plan.timed_s / len(plan.sizes))
    for entry in entries:
        entry.row.times_s.clear()
    progress.phase(f"{size}: {rounds} rounds", rounds)
    for shift in range(rounds):
        _round(entries, shift)
        progress.advance()


def affordable_rounds(seconds_per_round: float, budget_s: float, most: int = MAX_ROUNDS) -> int:
    """As many rounds as fit into the budget, at least `MIN_ROUNDS` and at most ``most``."""
    return min(most, max(MIN_ROUNDS, math.floor(budget_s / max(seconds_per_round, 1e-6))))


def _round(entries: Sequence[Entry], shift: int) -> None:
    """Run and time every contender once, beginning with another one each time."""
    with _no_garbage_collection():
        for i in range(len(entries)):
            entry = entries[(i + shift) % len(entries)]
            if entry.step is not None:
                entry.attempt(entry.time_step)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now and not meanwhile: a collection would be charged to whoever runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _measure_memory(
    case: Case, entries: Sequence[Entry], plan: Plan, size: Size, progress: Progress
) -> None:
    """Peak memory of those that ran; a failure costs the number, not the times."""
    measured = [entry for entry in entries if entry.running and not entry.contender.is_floor]
    for entry in measured:
        progress.phase(f"{size}: memory of {entry.contender.name}")
        name, dtype = entry.contender.name, entry.row.dtype
        job = memory.Job(case.name, name, size.rows, size.dim, dtype, plan.threads, plan.device)
        try:
            entry.row.peak_bytes = memory.measure(job)
        except (RuntimeError, OSError) as error:
            entry.row.reason = f"memory not measured: {error}"
