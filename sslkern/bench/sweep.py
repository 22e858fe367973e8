"""Our losses against the installed libraries: every contender from a small batch to its largest.

Each runs in a process of its own within limits of memory and time. Where it does not survive a
size, its line ends there, with the reason; the others go on. Times are taken in rounds as in
`sslkern.bench.harness`: each round has every contender take one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from sslkern.bench.child import Child, EndedError, Task
from sslkern.bench.contenders import Case, Contender, Size, UnavailableError
from sslkern.bench.harness import Progress, affordable_rounds
from sslkern.bench.results import Row, compare

FORWARD = "forward"
ROUNDS_S, MOST_ROUNDS = 1.0, 9
"""What the rounds of a size may take together, beyond the least number of rounds."""
INPUTS_S = 8.0
"""What building inputs may take, beyond the limit of a step."""


@dataclass(frozen=True)
class Limits:
    """What a contender may use at a size."""

    memory_gib: float = 8.0
    """That a step adds to the inputs and the libraries, which the process holds anyway."""
    step_s: float = 4.0
    """Seconds of one step."""

    def as_dict(self) -> dict[str, float]:
        """For the JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sweep:
    """What to measure of a case."""

    case: Case
    dtype: str
    """Name of the dtype of the inputs, such as ``float32``."""
    limits: Limits
    threads: int
    repeats: int | None = None
    """Timed rounds; None for as many as fit into `ROUNDS_S`."""
    sizes: tuple[Size, ...] | None = None
    """In place of those of the case."""


def is_limit(reason: str) -> bool:
    """Whether a line ended at one of the limits, and not by a failure."""
    return "more than" in reason or "no answer within" in reason


class Line:
    """A contender from size to size."""

    def __init__(self, sweep: Sweep, contender: Contender) -> None:
        self._sweep = sweep
        self.contender = contender
        memory_bytes = int(sweep.limits.memory_gib * 2**30)
        name = contender.name
        task = Task(sweep.case.name, name, sweep.dtype, sweep.threads, memory_bytes=memory_bytes)
        self.child = Child(task)
        self.ended = False

    def row(self, size: Size, passes: str) -> Row:
        """An empty row of it."""
        case, dtype = self._sweep.case.name, self._sweep.dtype
        return Row(case, size, dtype, self.contender.name, passes=passes)

    def measure_memory(self, row: Row) -> bool:
        """Build the inputs and measure the peak; whether the line goes on."""
        alone, timeout = row.passes == FORWARD, self._sweep.limits.step_s + INPUTS_S
        try:
            row.peak_bytes = self.child.peak(row.size, forward_alone=alone, timeout_s=timeout)
        except (EndedError, UnavailableError) as error:
            self._end(row, error)
        return not self.ended

    def measure_errors(self, row: Row) -> None:
        """Compare with the float64 reference, at a size where that takes no time."""
        try:
            found = self.child.agreement(self._sweep.limits.step_s + INPUTS_S)
            row.loss_error, row.grad_error = found.loss, found.grad
        except (EndedError, UnavailableError) as error:
            self._end(row, error)

    def take_time(self, row: Row) -> None:
        """Take one step and keep its time."""
        limit = self._sweep.limits.step_s
        try:
            seconds = self.child.seconds(2 * limit)
            if seconds > limit:
                raise EndedError(f"a step took {seconds:.1f} s, more than {limit:g} s")
            row.times_s.append(seconds)
        except (EndedError, UnavailableError) as error:
            self._end(row, error)

    def _end(self, row: Row, error: Exception) -> None:
        self.ended = True
        self.child.end()
        row.drop("skipped" if isinstance(error, UnavailableError) else "failed", str(error))


def run_sweep(sweep: Sweep, progress: Progress) -> list[Row]:
    """Measure all contenders of the case that another library may be compared by.

    Returns:
        A row per contender, size and pass up to where its line ends; the last row of a line that
        ended has the reason.
    """
    sizes = sweep.case.peer_sizes if sweep.sizes is None else sweep.sizes
    rows: list[Row] = []
    with ExitStack() as children:
        lines = [Line(sweep, contender) for contender in sweep.case.against_peers]
        for line in lines:
            children.callback(line.child.end)
            line.child.begin(sizes[0])
        rows += _start(lines, sizes[0], sweep, progress)
        for size in sizes:
            for passes in _passes(sweep.case):
                check = size == sizes[0] and passes == sweep.case.passes
                rows += _run_size(sweep, lines, size, passes, check, progress)
    return rows


def _passes(case: Case) -> tuple[str, ...]:
    """Forward alone, which wants no gradient, and with the backward pass if there is one."""
    return (FORWARD,) if case.passes == FORWARD else (FORWARD, case.passes)


def _start(lines: Sequence[Line], size: Size, sweep: Sweep, progress: Progress) -> list[Row]:
    """Wait until all have imported their libraries; rows of those that cannot take part."""
    rows = []
    for line in lines:
        progress.phase(f"{sweep.case.name} {sweep.dtype}: {line.contender.name} starts")
        try:
            line.child.started()
        except (EndedError, UnavailableError) as error:
            row = line.row(size, sweep.case.passes)
            line._end(row, error)
            rows.append(row)
    return rows


def _run_size(
    sweep: Sweep,
    lines: Sequence[Line],
    size: Size,
    passes: str,
    check: bool,
    progress: Progress,
) -> list[Row]:
    """Memory of each, and errors if they are to be checked; then all in rounds."""
    pairs = [(line, line.row(size, passes)) for line in lines if not line.ended]
    for line, row in pairs:
        progress.phase(f"{sweep.case.name} {sweep.dtype} {size}, {passes}: {row.contender}")
        if line.measure_memory(row) and check:
            line.measure_errors(row)
    _round(pairs, 0)
    seconds = sum(sum(row.times_s) for _, row in pairs)
    slow = seconds > ROUNDS_S
    if not slow:  # caches and allocators are not yet as in the rounds, which long steps do not feel
        for _, row in pairs:
            row.times_s.clear()
    rounds = sweep.repeats or affordable_rounds(seconds, ROUNDS_S, MOST_ROUNDS)
    for shift in range(int(slow), rounds):
        _round(pairs, shift)
    rows = [row for _, row in pairs]
    compare(rows, 0, None)
    return rows


def _round(pairs: Sequence[tuple[Line, Row]], shift: int) -> None:
    """One step of each that still runs, beginning with another one each time."""
    for i in range(len(pairs)):
        line, row = pairs[(i + shift) % len(pairs)]
        if not line.ended:
            line.take_time(row)
