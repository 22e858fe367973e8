"""Stamps pytest-benchmark results with the same environment as ``python -m sslkern bench``."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from sslkern.bench.environment import stamp


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add versions, threads and instruction sets."""
    machine_info["sslkern"] = stamp(shlex.join(["pytest", *sys.argv[1:]]))
