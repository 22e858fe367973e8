"""The scripts of `examples/` run from their command line, briefly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "digits")


def run(script: str, epochs: int) -> str:
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--epochs", str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs(script: str) -> None:
    lines = run(script, 8 if script == "simclr" else 1).splitlines()
    before, after = (re.fullmatch(r"(before|after): \w+ (\d+\.\d+)", lines[i]) for i in (0, -1))
    assert before
    assert after
    assert (before[1], after[1]) == ("before", "after")
    if script == "simclr":  # long enough to show
        assert float(after[2]) > float(before[2]) + 0.03


def test_the_common_methods_have_a_script() -> None:
    common = {"simclr", "moco", "swav", "byol", "barlow_twins", "dino", "clip", "mlm"}
    assert common | {"lightning_moco", "large_batch_clip"} == set(SCRIPTS)
