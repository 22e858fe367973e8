"""Rows of a benchmark, the numbers derived from them, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sslkern._files import write_atomic
from sslkern.bench.contenders import Size

SCHEMA = 1
OURS = "sslkern"


@dataclass
class Row:
    """One contender at one size."""

    loss: str
    size: Size
    dtype: str
    contender: str
    is_floor: bool = False
    passes: str = "forward + backward"
    """What one time is of; see `sslkern.bench.contenders.Case.passes`."""
    status: str = "ok"
    """``ok``, ``skipped`` or ``failed``; the last two with a reason."""
    reason: str | None = None
    times_s: list[float] = field(default_factory=list)
    """One time per round, in the order of the rounds, the same rounds for every contender."""
    peak_bytes: int | None = None
    loss_error: float | None = None
    grad_error: float | None = None
    speedup: float | None = None
    """How many times faster sslkern is than this contender."""
    over_floor: float | None = None
    """Time over that of the floor contender."""
    peak_fraction: float | None = None
    """Unavoidable operations per second over the measured peak of this many threads."""

    def drop(self, status: str, reason: str) -> None:
        """Take the contender out at this size."""
        self.status, self.reason, self.times_s = status, " ".join(reason.split()), []

    def quartiles_s(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the times."""
        low, middle, high = np.quantile(self.times_s, (0.25, 0.5, 0.75)).tolist()
        return low, middle, high

    @property
    def median_s(self) -> float:
        """Median time of one forward and backward."""
        return self.quartiles_s()[1]


@dataclass
class Results:
    """A whole run."""

    environment: dict[str, object]
    fma_peak_gflops: float | None
    rows: list[Row]
    limits: dict[str, float] | None = None
    """Of `sslkern.bench.sweep.Limits`, where contenders ran within some."""


def compare(rows: Sequence[Row], flops: int, peak_gflops: float | None) -> None:
    """Fill in what relates the rows of one size to each other and to the peak of the machine.

    Ratios are medians of the ratios within each round, not ratios of medians: in one round all
    contenders met the same clock speed and the same neighbours, so that a drift cancels.
    """
    timed = [row for row in rows if row.times_s]
    ours = next((row for row in timed if row.contender == OURS), None)
    floor = next((row for row in timed if row.is_floor), None)
    for row in timed:
        if ours is not None and not row.is_floor:
            row.speedup = median_ratio(row, ours)
        if floor is not None:
            row.over_floor = median_ratio(row, floor)
        if peak_gflops:
            row.peak_fraction = flops / row.median_s / (peak_gflops * 1e9)


def median_ratio(row: Row, base: Row) -> float:
    """Median over the rounds of the time of ``row`` over that of ``base``."""
    return float(np.median(np.divide(row.times_s, base.times_s)))


def to_json(results: Results) -> str:
    """Environment and all rows, with every raw time."""
    document = {
        "schema": SCHEMA,
        "environment": results.environment,
        "fma_peak_gflops": results.fma_peak_gflops,
        **({"limits": results.limits} if results.limits else {}),
        "rows": [_row_to_dict(row) for row in results.rows],
    }
    return json.dumps(document, indent=1) + "\n"


def _row_to_dict(row: Row) -> dict[str, object]:
    low, median, high = row.quartiles_s() if row.times_s else (None, None, None)
    return {
        "loss": row.loss,
        "rows": row.size.rows,
        "dim": row.size.dim,
        "dtype": row.dtype,
        "contender": row.contender,
        "passes": row.passes,
        "status": row.status,
        "reason": row.reason,
        "median_s": median,
        "lower_quartile_s": low,
        "upper_quartile_s": high,
        "times_s": row.times_s,
        "peak_bytes": row.peak_bytes,
        "loss_relative_error": row.loss_error,
        "grad_relative_l2_error": row.grad_error,
        "sslkern_speedup": row.speedup,
        "time_over_floor": row.over_floor,
        "fraction_of_fma_peak": row.peak_fraction,
    }


def write_json(results: Results, path: Path) -> None:
    """Write the results; on any interruption ``path`` stays as it was."""
    write_atomic(path, to_json(results).encode())
