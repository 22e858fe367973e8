"""Whether a loss has become slower than it was, on a machine of which its ratios are saved.

A ratio is the time of ours over that of something else in the same rounds: the products or the
traffic that no algorithm avoids (the floor of the case), or eager PyTorch where there is none. A
faster clock or a busy neighbour changes both times, and not much of their ratio.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sslkern._files import write_atomic
from sslkern.bench.contenders import Case, Contender
from sslkern.bench.environment import instruction_set, stamp, usable_cores
from sslkern.bench.harness import Plan, Progress, run_size
from sslkern.bench.results import OURS, median_ratio

THRESHOLD = 0.15
"""How much of a ratio may be added before it counts as a regression."""
TIMED_S = 3.0
"""What the rounds of a loss take together."""


@dataclass(frozen=True)
class Ratio:
    """Time of forward and backward of ours over that of ``to``: the median over the rounds."""

    name: str
    """Of the loss, its size and dtype, such as ``ntxent 2048x128 float32``."""
    to: str
    """Name of the contender that ours is compared with."""
    value: float
    rounds: int


def machine() -> str:
    """What ratios depend on, as a file's name: ``avx512-2-threads-of-2-cores``."""
    isa = str(instruction_set()).lower()
    return f"{isa}-{torch.get_num_threads()}-threads-of-{usable_cores()}-cores"


def measured_against(case: Case) -> Contender:
    """The floor of the case, or eager PyTorch."""
    floors = [contender for contender in case.contenders if contender.is_floor]
    return floors[0] if floors else next(c for c in case.contenders if c.name == "eager")


def measure(case: Case, progress: Progress, dtype: torch.dtype = torch.float32) -> Ratio:
    """The ratio at the first default size of the case, in alternating rounds.

    Raises:
        RuntimeError: If one of the two does not run; with the reason.
    """
    size, other = case.default_sizes[0], measured_against(case)
    ours = next(contender for contender in case.contenders if contender.name == OURS)
    plan = Plan(
        sizes=(size,),
        dtype=dtype,
        contenders=(ours, other),
        threads=torch.get_num_threads(),
        measure_memory=False,
        timed_s=TIMED_S,
        measure_errors=False,
    )
    rows = run_size(case, plan, size, progress)
    for row in rows:
        if not row.times_s:
            raise RuntimeError(f"{case.name}: {row.contender} {row.status}: {row.reason}")
    kind = str(dtype).removeprefix("torch.")
    value = median_ratio(*rows)
    return Ratio(f"{case.name} {size} {kind}", other.name, value, len(rows[0].times_s))


def regression(before: Ratio, first: Ratio, again: Callable[[], Ratio]) -> str | None:
    """What to say of a loss that is slower than it was; None if it is not.

    Args:
        before: The saved ratio.
        first: The ratio now.
        again: Measures it once more, which is done only if ``first`` is too large: both must be.
    """
    limit = before.value * (1 + THRESHOLD)
    if first.value <= limit:
        return None
    now = min(first.value, again().value)
    if now <= limit:
        return None
    return (
        f"{before.name}: {now:.3f} times the time of {before.to}, {before.value:.3f} before:"
        f" {now / before.value - 1:.0%} slower, in two measurements"
    )


def load(folder: Path, machine: str, name: str, to: str) -> Ratio | None:
    """The saved ratio of a loss on this machine to the same contender, if there is one."""
    path = folder / f"{machine}.json"
    if not path.exists():
        return None
    for saved in json.loads(path.read_text())["ratios"]:
        if (saved["name"], saved["to"]) == (name, to):
            return Ratio(**saved)
    return None


def save(folder: Path, machine: str, ratio: Ratio, command: str) -> Path:
    """Write a ratio into the machine's file, in place of an earlier one of the same loss."""
    path = folder / f"{machine}.json"
    saved = json.loads(path.read_text())["ratios"] if path.exists() else []
    kept = [other for other in saved if other["name"] != ratio.name]
    ratios = sorted([*kept, asdict(ratio)], key=lambda other: str(other["name"]))
    folder.mkdir(parents=True, exist_ok=True)
    document = {"environment": stamp(command), "ratios": ratios}
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())
    return path


def nothing_saved(machine: str, name: str) -> str:
    """What to say where there is nothing to compare with."""
    return f"no ratio of {name} is saved for this machine ({machine}): save it with --save-ratios"
