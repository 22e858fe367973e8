"""The README's figures are the committed results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_benchmark_table_is_what_the_results_say() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"]
    assert subprocess.run(command).returncode == 0


def test_every_picture_of_the_readme_is_committed() -> None:
    text = (ROOT / "README.md").read_text()
    pictures = [part.split(")")[0] for part in text.split("](")[1:] if ".png" in part]
    assert pictures
    assert all((ROOT / picture).exists() for picture in pictures)
