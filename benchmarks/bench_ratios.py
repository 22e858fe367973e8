"""Whether a loss has become slower: its ratio to what else there is, against the saved one.

    pytest benchmarks/bench_ratios.py                  # compares
    pytest benchmarks/bench_ratios.py --save-ratios    # saves, for a machine like this one

A loss fails whose ratio is more than 15 % above the saved one in two measurements. Where nothing
is saved for the machine the test is skipped, and says so.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from sslkern.bench import CASES, ratios


class Silent:
    """Reports no progress."""

    def phase(self, text: str, steps: int = 1) -> None:
        """Begin a phase."""

    def advance(self) -> None:
        """One step done."""


@pytest.mark.parametrize("loss", CASES)
def test_loss_is_not_slower_than_it_was(loss: str, request: pytest.FixtureRequest) -> None:
    """Forward and backward in float32."""
    folder = Path(request.config.getoption("--ratios"))
    machine = ratios.machine()
    now = ratios.measure(CASES[loss], Silent())
    if request.config.getoption("--save-ratios"):
        command = shlex.join(["pytest", *sys.argv[1:]])
        print(f"saved: {ratios.save(folder, machine, now, command)}")
        return
    before = ratios.load(folder, machine, now.name, now.to)
    if before is None:
        pytest.skip(ratios.nothing_saved(machine, now.name))
    slower = ratios.regression(before, now, lambda: ratios.measure(CASES[loss], Silent()))
    if slower is not None:
        pytest.fail(slower, pytrace=False)
