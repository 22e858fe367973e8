"""The results as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from sslkern.bench.environment import describe
from sslkern.bench.results import OURS, Results, Row

ABSENT = "-"
LOG_WIDTH = 132
"""Columns where the output is no terminal; rich would otherwise fold the table into 80."""


def print_results(results: Results, title: str, console: Console | None = None) -> None:
    """Print the table, the reasons of those who did not take part, and the machine."""
    console = console or stdout_console()
    console.print(_table(results.rows, title, console))
    for note in notes(results.rows):
        console.print(note, highlight=False, markup=False)
    console.print(describe(results.environment), highlight=False, markup=False, style="dim")


def stdout_console() -> Console:
    """A console on standard output that does not fold tables in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def notes(rows: Sequence[Row]) -> list[str]:
    """One line per contender and reason, with the sizes it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason is not None:
            text = row.reason if row.status == "ok" else f"{row.status}: {row.reason}"
            reasons.setdefault((row.contender, text), []).append(str(row.size))
    return [
        f"{contender} at {', '.join(sizes)}: {text}" for (contender, text), sizes in reasons.items()
    ]


def _table(rows: Sequence[Row], title: str, console: Console) -> Table:
    """The widest table that fits: a narrow terminal loses columns, not ends of numbers."""
    dropped = 0
    table = _build(rows, title, COLUMNS)
    unlimited = console.options.update(max_width=1000)
    while console.measure(table, options=unlimited).maximum > console.width:
        dropped += 1
        if dropped > len(DROP_FIRST):
            break
        kept = [c for c in COLUMNS if c.name not in DROP_FIRST[:dropped]]
        table = _build(rows, title, kept)
    return table


def _build(rows: Sequence[Row], title: str, columns: Sequence[Column]) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("size", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    floor = next((row.contender for row in rows if row.is_floor), "floor")
    for column in columns:
        heading = column.heading.format(floor=floor.replace(" ", "\n"))
        table.add_column(heading, justify="right", no_wrap=True)
    for size, group in groupby(rows, key=lambda row: row.size):
        for i, row in enumerate(group):
            style = "bold green" if row.contender == OURS and row.status == "ok" else None
            cells = [_cell(row, column) for column in columns]
            table.add_row(str(size) if i == 0 else "", row.contender, *cells, style=style)
        table.add_section()
    return table


def _cell(row: Row, column: Column) -> str:
    if row.status == "ok":
        return column.show(row)
    return row.status if column.name == "time" else ABSENT


def _quartiles(row: Row) -> str:
    low, _, high = row.quartiles_s()
    return f"{format_seconds(low).split()[0]} - {format_seconds(high)}"


def _speedup(row: Row) -> str:
    return ABSENT if row.contender == OURS else _number(row.speedup, "{:.2f}x")


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)


def format_seconds(seconds: float) -> str:
    """Three significant digits, in seconds from one second on, otherwise in milliseconds."""
    value, unit = (seconds, "s") if seconds >= 0.9995 else (seconds * 1e3, "ms")
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def format_bytes(count: int | None) -> str:
    """MiB, or GiB from 1 GiB on."""
    if count is None:
        return ABSENT
    mebibytes = count / 2**20
    if mebibytes >= 1024:
        return f"{mebibytes / 1024:.2f} GiB"
    return f"{mebibytes:.0f} MiB" if mebibytes >= 9.95 else f"{mebibytes:.1f} MiB"


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    name: str
    heading: str
    show: Callable[[Row], str]


COLUMNS = (
    Column("time", "time", lambda row: format_seconds(row.median_s)),
    Column("quartiles", "quartiles", _quartiles),
    Column("memory", "peak\nmemory", lambda row: format_bytes(row.peak_bytes)),
    Column("loss", "loss\nerror", lambda row: _number(row.loss_error, "{:.1e}")),
    Column("grad", "grad\nerror", lambda row: _number(row.grad_error, "{:.1e}")),
    Column("speedup", f"{OURS}\nfaster by", _speedup),
    Column("floor", "time /\n{floor}", lambda row: _number(row.over_floor, "{:.2f}")),
    Column("peak", "of FMA\npeak", lambda row: _number(row.peak_fraction, "{:.0%}")),
)
DROP_FIRST = ("quartiles", "loss", "peak", "floor")
