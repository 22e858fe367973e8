"""Counts divided by ceilings: the least time of each unit, and the largest of them."""

from __future__ import annotations

from dataclasses import dataclass

from sslkern.model.counts import Counts, matrix_flop, total
from sslkern.model.gpus import Gpu

# Moves are PTX's own way to name registers: machine code has few of them.
NOT_ISSUED = ("issued move",)

# Comparisons and selections run where integers do.
UNITS = {
    "fp32": ("issued fp32",),
    "fp64": ("issued fp64",),
    "integer": ("issued integer", "issued select"),
    "special": ("issued function",),
    "convert": ("issued convert",),
}


@dataclass(frozen=True)
class Prediction:
    """Seconds by unit; the kernel takes the largest."""

    units: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of the unit that limits."""
        return max(self.units.values())

    @property
    def limit(self) -> str:
        """The unit that limits."""
        return max(self.units, key=lambda unit: self.units[unit])


def predict(counts: Counts, gpu: Gpu) -> Prediction:
    """Of all launches of a kernel; a launch of few blocks has few multiprocessors."""
    used = min(gpu.multiprocessors, counts["blocks"] / counts["launches"])
    cycles = used * gpu.clock
    share = gpu.mma_share * cycles
    matrix = sum(n / (gpu.matrix[kind] * share) for kind, n in matrix_flop(counts).items())
    issued = total(counts, "issued") - sum(counts.get(name, 0) for name in NOT_ISSUED)
    units = {"matrix": matrix}
    for unit, names in UNITS.items():
        lanes = 32 * sum(counts.get(name, 0) for name in names)
        units[unit] = lanes / (getattr(gpu, unit) * cycles)
    units["issue"] = issued / (gpu.issue * cycles)
    shuffles = counts.get("issued warp", 0)
    units["shared"] = (counts["wavefronts"] + shuffles) / (gpu.shared * cycles)
    units["L2"] = 32 * total(counts, "sectors") / gpu.l2_bytes
    units["DRAM"] = 32 * total(counts, "distinct") / gpu.dram_bytes
    return Prediction(units)
