"""The result of a run as a table for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_report(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """Print the accuracies, what they were measured on, the speed and where the files are."""
    console.print(_table(summary))
    for line in notes(summary, folder):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def notes(summary: dict[str, Any], folder: Path) -> list[str]:
    """What stands below the table, one line each."""
    data, config = summary["data"], summary["config"]
    labels, train, test = data["probe_labels"], data["pretraining_images"], data["test_images"]
    return [
        f"pretraining: {train} images (the training half) without labels, "
        f"{summary['steps']} of {summary['total_steps']} steps, seed {config['seed']}",
        f"probes: labels of {labels} images of that half, mean and standard deviation over "
        f"{data['probe_draws']} draws; 5-NN: all {train}",
        f"accuracy: on the {test} images of the other half, used for nothing else",
        f"loss: {config['loss']}, {summary['first_loss']:.4f} -> {summary['last_loss']:.4f}; "
        f"{summary['images_per_second']:.0f} images/s; {summary['seconds']:.1f} s in all "
        f"with {summary['threads']} thread{'s' if summary['threads'] > 1 else ''}",
        f"files: {folder}",
    ]


def _table(summary: dict[str, Any]) -> Table:
    labels, train = summary["data"]["probe_labels"], summary["data"]["pretraining_images"]
    table = Table(title="Accuracy of probes on frozen features", box=box.SIMPLE_HEAD)
    table.add_column("features", no_wrap=True)
    for probe, count in (("linear", labels), ("1-NN", labels), ("5-NN", train)):
        table.add_column(f"{probe}\n{count} labels", justify="right", no_wrap=True)
    rows = summary["accuracy"].items()
    best = max(accuracy["linear"] for _, accuracy in rows)
    for name, accuracy in rows:
        linear = f"{accuracy['linear']:.3f} ± {accuracy['linear_std']:.3f}"
        few, all_labels = f"{accuracy['nearest']:.3f}", f"{accuracy['knn']:.3f}"
        style = "bold" if accuracy["linear"] == best else None
        table.add_row(name, linear, few, all_labels, style=style)
    return table
