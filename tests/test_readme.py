"""The README's figures are the committed results."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from sslkern.train import TrainConfig
from sslkern.train.recipes import recipe_names

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("script", ["readme", "methods"])
def test_table_is_what_the_results_say(script: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--check"]
    assert subprocess.run(command).returncode == 0


def test_every_picture_of_the_readme_is_committed() -> None:
    text = (ROOT / "README.md").read_text()
    pictures = [part.split(")")[0] for part in text.split("](")[1:] if ".png" in part]
    assert pictures
    assert all((ROOT / picture).exists() for picture in pictures)


def cells_of_the_model(op: str) -> list[str]:
    """Predicted time over the floor of each size: forward / backward, or of one pass alone."""
    results = ROOT / "benchmarks" / "results" / "model" / f"{op}-bfloat16-h100.txt"
    text = " ".join(results.read_text().split())
    figures = re.findall(r"(\w+): kernels .*?predicted / floor ([\d.]+)", text)
    parts = [part for part, _ in figures]
    passes = len(set(parts))
    assert parts == ["forward", "backward"][:passes] * (len(parts) // passes)
    values = [value for _, value in figures]
    return [" / ".join(values[k : k + passes]) for k in range(0, len(values), passes)]


@pytest.mark.parametrize(("op", "label"), [
    ("ntxent", "`ntxent_loss`"),
    ("info_nce", "`info_nce_loss`"),
    ("clip", "`clip_loss`"),
    ("siglip", "`siglip_loss`, both passes in one"),
    ("supcon", "`supcon_loss`"),
    ("linear_cross_entropy", "`linear_cross_entropy`"),
])  # fmt: skip
def test_table_of_the_model_is_what_the_results_say(op: str, label: str) -> None:
    cells = cells_of_the_model(op)
    assert len(cells) == 4, "of four widths"
    assert all((" / " in cell) == (op != "siglip") for cell in cells)
    assert f"| {label} | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("op", "label"), [
    ("sinkhorn", "`sinkhorn` | 4096 x 3000"),
    ("swav", "`swav_loss`, 8 views | 1024 x 3000"),
    ("soft_cross_entropy", "`soft_cross_entropy` | 4096 x 4096"),
    ("negative_sampling", "`negative_sampling_loss` | 4096 x 128"),
    ("cross_correlation", "`barlow_twins_loss` | 1024 x 2048"),
    ("covariance", "`vicreg_loss` | 1024 x 2048"),
])  # fmt: skip
def test_table_of_one_size_is_what_the_results_say(op: str, label: str) -> None:
    results = ROOT / "benchmarks" / "results" / "model" / f"{op}-bfloat16-h100.txt"
    size = label.split("| ")[-1].replace(" ", "")
    assert results.read_text().startswith(f"{op} {size}, bfloat16, H100 SXM: a model")
    (cell,) = cells_of_the_model(op)
    assert f"| {label} | {cell} |" in (ROOT / "README.md").read_text()


def test_every_method_showed_its_evidence() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "train" / "quick.json").read_text())
    assert set(results) == set(recipe_names())
    assert [name for name, row in results.items() if not row["evidence"]["holds"]] == []


def test_table_of_the_whole_run_is_what_the_results_say() -> None:
    folder = ROOT / "benchmarks" / "results" / "train"
    runs = [json.loads((folder / f"seed{seed}.json").read_text()) for seed in range(3)]
    config = TrainConfig.of("simclr")
    assert [run["config"] for run in runs] == [
        dataclasses.replace(config, seed=seed).as_dict() for seed in range(3)
    ]
    for label, name in (
        ("raw pixels", "raw pixels"),
        ("untrained encoder", "untrained"),
        (f"SimCLR, {config.epochs} epochs", "trained"),
    ):
        found = [run["measures"][name]["linear"] for run in runs]
        cells = " | ".join(f"{x:.3f}" for x in (*found, fmean(found)))
        assert f"| {label} | {cells} |" in (ROOT / "README.md").read_text()
