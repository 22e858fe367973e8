"""Losses over processes against one process: time, work, peak memory, bytes sent.

All ranks are on this machine and share its cores, on one thread each. So the work, the processor
time of all ranks together, says what sharing a batch costs; the time says nothing about what
machines of their own would take.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import sslkern
from sslkern._files import write_atomic
from sslkern.bench.clip import LOGIT_SCALE
from sslkern.bench.contenders import Outcome, Size, differentiate
from sslkern.bench.harness import Progress
from sslkern.bench.peak import _peak, _reset_peak
from sslkern.bench.ranks import Ranks
from sslkern.bench.sent import Sent, bytes_of, count_sent, socket_bytes

SCHEMA = 1
SINGLE = "single"
STRATEGIES = ("gather", "ring")
TINY = 4  # rows of a rank in the first, unmeasured call
MIN_ROUNDS, MAX_ROUNDS = 3, 30

LossFn = Callable[..., Tensor]

LOSSES: dict[str, LossFn] = {
    "ntxent": lambda a, b, **sharing: sslkern.ntxent_loss(a, b, 0.5, **sharing),
    "clip": lambda a, b, **sharing: sslkern.clip_loss(a, b, LOGIT_SCALE, **sharing),
    "info_nce": lambda a, b, **sharing: sslkern.info_nce_loss(
        a, b, temperature=0.2, symmetric=True, **sharing
    ),
}
"""Of two views; every row of both gets a gradient."""


@dataclass(frozen=True)
class Job:
    """A loss of ``pairs`` pairs of rows in all; plain values, for they go to other processes."""

    loss: str
    pairs: int
    dim: int
    dtype: str
    processes: int
    strategy: str

    @property
    def rows(self) -> int:
        """Pairs of each rank."""
        return self.pairs // self.processes


@dataclass
class Row:
    """What was measured of a job."""

    job: Job
    times_s: list[float] = field(default_factory=list)
    """From a barrier until the last rank has its gradients, per round."""
    work_s: list[float] = field(default_factory=list)
    """Processor time of all ranks together, per round."""
    peak_bytes: int | None = None
    """Beyond inputs, loss and gradients, of the rank with most."""
    sent_bytes: Sent = field(default_factory=dict)
    """Of the rank with most, by collective."""
    socket_bytes: int | None = None
    """What the system counted of them, on all TCP sockets of that rank."""
    time_ratio: float | None = None
    """To one process, the median over the rounds."""
    work_ratio: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure: at each size all losses in one process and in several."""

    losses: tuple[str, ...]
    sizes: tuple[Size, ...]
    processes: tuple[int, ...]
    per_rank: tuple[Size, ...]
    """Sizes of a rank, whose memory is measured with more and more ranks."""
    per_rank_processes: tuple[int, ...]
    dtype: str = "float32"
    repeats: int | None = None
    seconds: float = 80.0
    """Of all timed rounds together, where the number of repeats is not given."""

    def jobs(self, loss: str, size: Size) -> list[Job]:
        """The same batch in one process and in several."""
        single = Job(loss, size.rows, size.dim, self.dtype, 1, SINGLE)
        return [single] + [
            replace(single, processes=count, strategy=strategy)
            for count in self.processes
            for strategy in STRATEGIES
        ]

    def jobs_per_rank(self, loss: str, size: Size) -> list[Job]:
        """As many rows on each rank, whatever their number."""
        return [
            Job(loss, count * size.rows, size.dim, self.dtype, count, strategy)
            for count in self.per_rank_processes
            for strategy in (STRATEGIES if count > 1 else (SINGLE,))
        ]


@dataclass
class Results:
    """A whole run."""

    environment: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    per_rank: list[Row] = field(default_factory=list)


# ---- what a rank does


def views(job: Job, rank: int) -> tuple[Tensor, Tensor]:
    """A rank's rows of both views, each (rows, D): correlated, not normalised."""
    generator = torch.Generator().manual_seed(rank)
    shape = (job.rows, job.dim)
    shared, noise_a, noise_b = (torch.randn(shape, generator=generator) for _ in range(3))
    dtype = getattr(torch, job.dtype)
    return (shared + noise_a).to(dtype), (shared + noise_b).to(dtype)


def _step(group: Any, job: Job, tiny: bool = False) -> Callable[[], Outcome]:
    """Forward and backward of this rank's rows."""
    loss = LOSSES[job.loss]
    if tiny:
        job = replace(job, pairs=TINY * job.processes)
    inputs = views(job, dist.get_rank(group))
    if job.strategy == SINGLE:
        return lambda: differentiate(loss, inputs)

    def shared(a: Tensor, b: Tensor) -> Tensor:
        return loss(a, b, gather_distributed=True, process_group=group, strategy=job.strategy)

    return lambda: differentiate(shared, inputs)


def timed(group: Any, job: Job) -> tuple[float, float]:
    """Seconds on the clock, and of the processor in all threads of this process."""
    step = _step(group, job)
    gc.collect()
    dist.barrier(group)
    begin, work = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - begin, time.process_time() - work


def peak_of_rank(group: Any, job: Job) -> int | None:
    """Bytes beyond inputs, loss and gradients: see `sslkern.bench.peak`."""
    _step(group, job, tiny=True)()
    step = _step(group, job)
    gc.collect()
    dist.barrier(group)
    before = _reset_peak()
    dist.barrier(group)  # none begins to send while another has not looked yet
    outcome = step()
    peak = _peak()
    if before is None or peak is None:
        return None
    return max(0, peak - before - sum(bytes_of(x) for x in (outcome.loss, *outcome.grads)))


def sent_by_rank(group: Any, job: Job) -> tuple[Sent, int | None]:
    """Bytes for other ranks in one step: at the collectives, and at the sockets."""
    step = _step(group, job)
    before = socket_bytes()
    with count_sent() as sent:
        step()
    dist.barrier(group)  # what others have received is no longer waiting in a buffer here
    after = socket_bytes()
    return sent, None if before is None or after is None else after - before


# ---- what is made of it


def measure(plan: Plan, results: Results, progress: Progress) -> None:
    """Fill in all rows."""
    for loss in plan.losses:
        for size in plan.sizes:
            rows = [Row(job) for job in plan.jobs(loss, size)]
            progress.phase(f"{loss}, {size}: memory and bytes sent", len(rows))
            for row in rows:
                _measure_memory_and_sent(row)
                progress.advance()
            _time_rounds(rows, plan, f"{loss}, {size}", progress)
            results.rows += rows
        for size in plan.per_rank:
            rows = [Row(job) for job in plan.jobs_per_rank(loss, size)]
            progress.phase(f"{loss}, {size} on each rank: memory", len(rows))
            for row in rows:
                _measure_memory_and_sent(row)
                progress.advance()
            results.per_rank += rows


def _measure_memory_and_sent(row: Row) -> None:
    """In processes of their own: see `sslkern.bench.peak`."""
    row.peak_bytes = measure_peak(row.job)
    if row.job.strategy != SINGLE:
        with Ranks(row.job.processes) as ranks:
            found = ranks.run(row.job.processes, sent_by_rank, row.job)
        row.sent_bytes, row.socket_bytes = max(found, key=lambda x: sum(x[0].values()))


def measure_peak(job: Job) -> int | None:
    """Of the rank with most, in fresh processes; None where the system does not tell."""
    with Ranks(job.processes, give_back=True) as ranks:
        peaks = ranks.run(job.processes, peak_of_rank, job)
    return max((peak for peak in peaks if peak is not None), default=None)


def _time_rounds(rows: Sequence[Row], plan: Plan, name: str, progress: Progress) -> None:
    """Every round runs each job once, and begins with another one: see `sslkern.bench.harness`."""
    sizes = {row.job.processes for row in rows}
    with Ranks(max(sizes), sizes) as ranks:
        progress.phase(f"{name}: warm-up round")
        _round(ranks, rows, 0)
        begin = time.perf_counter()
        _round(ranks, rows, 0)
        share = plan.seconds / (len(plan.losses) * len(plan.sizes))
        affordable = int(share / (time.perf_counter() - begin))
        rounds = plan.repeats or min(MAX_ROUNDS, max(MIN_ROUNDS, affordable))
        for row in rows:
            row.times_s, row.work_s = [], []
        progress.phase(f"{name}: {rounds} rounds", rounds)
        for shift in range(rounds):
            _round(ranks, rows, shift)
            progress.advance()
    single = next(row for row in rows if row.job.strategy == SINGLE)
    for row in rows:
        row.time_ratio = _median_ratio(row.times_s, single.times_s)
        row.work_ratio = _median_ratio(row.work_s, single.work_s)


def _round(ranks: Ranks, rows: Sequence[Row], shift: int) -> None:
    for i in range(len(rows)):
        row = rows[(i + shift) % len(rows)]
        found = ranks.run(row.job.processes, timed, row.job)
        row.times_s.append(max(seconds for seconds, _ in found))
        row.work_s.append(sum(work for _, work in found))


def _median_ratio(x: Sequence[float], base: Sequence[float]) -> float:
    return float(np.median(np.divide(x, base)))


def to_json(results: Results) -> str:
    """Environment and all rows, with every raw time."""
    document = {
        "schema": SCHEMA,
        "environment": results.environment,
        "rows": [_as_dict(row) for row in results.rows],
        "per_rank": [_as_dict(row) for row in results.per_rank],
    }
    return json.dumps(document, indent=1) + "\n"


def _as_dict(row: Row) -> dict[str, object]:
    found = asdict(row)
    job = found.pop("job")
    return {**job, "rows_per_rank": row.job.rows, **found}


def write_json(results: Results, path: Path) -> None:
    """Write the results; on any interruption ``path`` stays as it was."""
    write_atomic(path, to_json(results).encode())
