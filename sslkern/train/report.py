"""The result of a run as a table for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_report(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """Print the measures, what they were taken on, the speed and where the files are."""
    console.print(_table(summary))
    for line in notes(summary, folder):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def notes(summary: dict[str, Any], folder: Path) -> list[str]:
    """What stands below the table, one line each."""
    config, evidence = summary["config"], summary["evidence"]
    options = ", ".join(f"{name} {value}" for name, value in config["options"].items())
    threads, processes = summary["threads"], summary["processes"]
    collapse = "  ".join(f"{name} {value:.3f}" for name, value in summary["collapse"].items())
    lines = [
        f"training: {summary['train_samples']} samples of {config['data']} (half of them), "
        f"{summary['steps']} of {summary['total_steps']} steps, seed {config['seed']}",
        f"options: {options or 'none'}",
        f"loss: {summary['first_loss']:.4f} -> {summary['last_loss']:.4f}; "
        f"{summary['samples_per_second']:.0f} samples/s; {summary['seconds']:.1f} s in all "
        f"with {_count(threads, 'thread')}"
        f"{f' in each of {processes} processes' if processes > 1 else ''}",
        f"embeddings: {collapse}" if collapse else "",
        f"evidence: {evidence['measure']} {'better' if evidence['gain'] >= 0 else 'worse'} by "
        f"{abs(evidence['gain']):.4g} (at least {evidence['margin']:g}): "
        f"{'held' if evidence['holds'] else 'missed'}",
        f"files: {folder}",
    ]
    return [line for line in lines if line]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number > 1 else ''}"


def _table(summary: dict[str, Any]) -> Table:
    measures, tested = summary["measures"], summary["test_samples"]
    title = f"{summary['title']}: measures on the {tested} samples of the other half"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("")
    names = [name for name in measures["trained"] if not name.endswith("_std")]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row, values in measures.items():
        style = "bold" if row == "trained" else None
        table.add_row(row, *[_cell(values, name) for name in names], style=style)
    return table


def _cell(values: dict[str, float], name: str) -> str:
    deviation = values.get(f"{name}_std")
    return f"{values[name]:.4g}" if deviation is None else f"{values[name]:.3f} ± {deviation:.3f}"
