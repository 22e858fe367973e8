"""The results of `sslkern.bench.scaling` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from sslkern.bench.environment import describe
from sslkern.bench.scaling import SINGLE, Results, Row
from sslkern.bench.table import ABSENT, format_bytes, format_seconds, stdout_console

SHARED_CORES = (
    "Ranks share the cores of this machine, on one thread each: work is what sharing a batch costs;"
    " times are no speed of several machines."
)


def print_results(results: Results, console: Console | None = None) -> None:
    """Print both tables, what the times are not, and the machine."""
    console = console or stdout_console()
    columns = ("time", "time /\nsingle", "work /\nsingle", "peak\nmemory", "sent", "sockets")
    title = "forward + backward, a batch shared by processes"
    table = _table(title, ("loss", "size", "processes", *columns))
    for row in results.rows:
        job = row.job
        table.add_row(job.loss, f"{job.pairs}x{job.dim}", _who(row), *_numbers(row))
    console.print(table)
    if results.per_rank:
        title = "peak memory with as many rows on each rank"
        table = _table(title, ("loss", "on each rank", "processes", "peak\nmemory", "sent"))
        for row in results.per_rank:
            size = f"{row.job.rows}x{row.job.dim}"
            cells = (format_bytes(row.peak_bytes), _sent(row))
            table.add_row(row.job.loss, size, _who(row), *cells)
        console.print(table)
    for line in (SHARED_CORES, describe(results.environment)):
        console.print(line, highlight=False, markup=False, style="dim")


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 3 else "right", no_wrap=True)
    return table


def _who(row: Row) -> str:
    return SINGLE if row.job.strategy == SINGLE else f"{row.job.processes}, {row.job.strategy}"


def _numbers(row: Row) -> tuple[str, ...]:
    return (
        format_seconds(median(row.times_s)) if row.times_s else ABSENT,
        *(ABSENT if x is None else f"{x:.2f}" for x in (row.time_ratio, row.work_ratio)),
        format_bytes(row.peak_bytes),
        _sent(row),
        format_bytes(row.socket_bytes),
    )


def _sent(row: Row) -> str:
    return format_bytes(sum(row.sent_bytes.values())) if row.sent_bytes else ABSENT
