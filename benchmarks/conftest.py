"""Options of the benchmarks, and the stamp of ``python -m sslkern bench`` on their results."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from sslkern.bench.environment import stamp

RATIOS = Path(__file__).parent / "results" / "ratios"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``bench_ratios.py``."""
    group = parser.getgroup("ratios", "of bench_ratios.py")
    group.addoption("--save-ratios", action="store_true", help="save ratios, compare with none")
    group.addoption("--ratios", default=str(RATIOS), help="their folder; default: %(default)s")


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add versions, threads and instruction sets."""
    machine_info["sslkern"] = stamp(shlex.join(["pytest", *sys.argv[1:]]))
