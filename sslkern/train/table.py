"""``train --all``: every method, a process each, and one table of what they show."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from sslkern._files import write_atomic
from sslkern.train.config import TrainConfig
from sslkern.train.job import Job, run_job
from sslkern.train.recipes import load_recipe, recipe_names

Row = dict[str, Any]


def run_all(folder: Path, console: Console, *, quick: bool, seed: int = 0) -> int:
    """Train every method and print the table.

    Args:
        folder: Gets a run folder per method, and ``summary.json`` of all.
        console: Where to.
        quick: Whether with few epochs.
        seed: Of every run.

    Returns:
        0 if every method showed its evidence, else 1.
    """
    rows: dict[str, Row] = {}
    # A process per core and a thread per process: the batches are too small to share.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        runs = {pool.submit(run_one, n, folder / n, quick, seed): n for n in recipe_names()}
        try:
            for done in as_completed(runs):
                rows[runs[done]] = row = done.result()
                console.print(f"{runs[done]:<24}{_verdict(row)}", highlight=False)
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # or leaving the pool waits for them
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise
    ordered = {name: rows[name] for name in sorted(rows)}
    write_atomic(folder / "summary.json", (json.dumps(ordered, indent=2) + "\n").encode())
    console.print(table(list(ordered.values())))
    return int(not all(row["holds"] for row in rows.values()))


def run_one(name: str, folder: Path, quick: bool, seed: int) -> Row:
    """Train one method; an exception becomes the row of a method that failed."""
    torch.set_num_threads(1)
    recipe = load_recipe(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        epochs = recipe.quick if quick else recipe.epochs
        config = TrainConfig.of(name, epochs=epochs, seed=seed)
        silent = Console(file=io.StringIO())
        summary = run_job(Job(config, folder, plots=not quick), silent, silent)
    except Exception as error:  # one method must not end the others
        message = f"{type(error).__name__}: {error}"
        return {"title": recipe.title, "error": message, "holds": False}
    return {**summary, "holds": summary["evidence"]["holds"]}


def table(rows: list[Row]) -> Table:
    """One line per method."""
    result = Table(box=box.SIMPLE_HEAD)
    for column in ("method", "data", "loss first", "last", "measure", "before", "after"):
        result.add_column(column, justify="left" if column in ("method", "data") else "right")
    for column in ("std", "rank", "seconds", ""):
        result.add_column(column, justify="right")
    for row in rows:
        result.add_row(*_cells(row), style=None if row["holds"] else "red")
    return result


def _cells(row: Row) -> list[str]:
    if "error" in row:
        return [row["title"], *[""] * 9, row["error"]]
    measure, collapse = row["evidence"]["measure"], row["collapse"]
    before, after = (row["measures"][name][measure] for name in ("untrained", "trained"))
    return [
        row["title"],
        row["config"]["data"],
        f"{row['first_loss']:.3f}",
        f"{row['last_loss']:.3f}",
        measure,
        f"{before:.4g}",
        f"{after:.4g}",
        *(f"{collapse[k]:.2f}" if k in collapse else "" for k in ("std", "rankme")),
        f"{row['seconds']:.1f}",
        "" if row["holds"] else "missed",
    ]


def _verdict(row: Row) -> str:
    if "error" in row:
        return str(row["error"])
    return f"{'held' if row['holds'] else 'MISSED'} in {row['seconds']:.1f} s"
