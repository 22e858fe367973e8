"""The stamp on every result: the machine, the versions, the command."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import sslkern
from sslkern.bench.peers import PEERS, installed_version


def stamp(command: str, device: str | None = None) -> dict[str, object]:
    """Everything needed to judge or repeat a measurement.

    Args:
        command: The command line that started the measurement.
        device: Name of the CUDA device; None for the CPU.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "cpu": cpu_model(),
        **({"device": device, "cuda": torch.version.cuda} if device else {}),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "load_average": load_average(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sslkern": sslkern.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "peers": {name: installed_version(peer) for name, peer in PEERS.items()},
    }


def cpu_model() -> str:
    """Model name of the CPU, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_set() -> str | None:
    """Instruction set that the built extension uses on this CPU; None without an extension."""
    try:
        return str(sslkern.build_config()["active_instruction_set"])
    except (AttributeError, ImportError):
        return None


def load_average() -> float | None:
    """Load of the last minute: a number well above 0 means that others were measured as well."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024 if values else None


def describe(environment: dict[str, object]) -> str:
    """The stamp in one line, for the table and the plot."""
    instructions = environment["instruction_set"] or environment["torch_instruction_set"]
    device = f"{environment['device']}, " if "device" in environment else ""
    return (
        f"{device}{environment['cpu']}, threads: {environment['threads']},"
        f" cores: {environment['cores']}, {str(instructions).lower()},"
        f" torch {environment['torch']}, sslkern {environment['sslkern']}"
    )
