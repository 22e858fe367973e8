"""What the emulation counts of launches, as numbers by name and kernel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Counts = dict[str, float]
"""``launches``, ``blocks``; warp instructions as ``issued UNIT`` and ``matrix SHAPE.TYPE``; global
memory as ``sectors KIND``, ``bytes KIND`` and ``distinct read`` or ``written`` (sectors); of shared
memory ``requests``, ``wavefronts`` and ``conflicts``. The units are the classes of
csrc/platform/ptx/counting.h."""


def counts_of(kernels: dict[str, dict[str, Any]]) -> dict[str, Counts]:
    """By the kernels' short names: of instances of a template together."""
    sums: dict[str, Counts] = {}
    for name, kernel in kernels.items():
        counts = sums.setdefault(short_name(name), defaultdict(float))
        for key, value in _numbers(kernel):
            counts[key] += value
    return sums


def short_name(mangled: str) -> str:
    """``_ZN7sslkern4cuda16pack_rows_kernelI...`` -> ``pack_rows_kernel``."""
    found = re.search(r"\d([a-z_]+_kernel)", mangled)
    return found[1] if found else mangled


def _numbers(kernel: dict[str, Any]) -> Iterable[tuple[str, float]]:
    yield "launches", kernel["launches"]
    yield "blocks", kernel["blocks"]
    for name, tally in kernel["classes"].items():
        yield f"issued {name}", tally["warps"]
    # Comparisons and selections are issued, other moves are PTX's way to name registers.
    for mnemonic, tally in kernel["instructions"].items():
        if mnemonic.startswith(("setp", "selp")):
            yield "issued select", tally["warps"]
            yield "issued move", -tally["warps"]
        found = re.match(r"mma\.sync\.aligned\.(m\d+n\d+k\d+)\.\w+\.\w+\.\w+\.(\w+)\.", mnemonic)
        if found:
            yield f"matrix {found[1]}.{found[2]}", tally["warps"]
    for kind, traffic in kernel["global"].items():
        for what in ("sectors", "bytes"):
            yield f"{what} {kind}", traffic[what]
    for what in ("read", "written"):
        yield f"distinct {what}", kernel[f"distinct_sectors_{what}"]
    for what in ("requests", "wavefronts", "conflicts"):
        yield what, sum(traffic[what] for traffic in kernel["shared"].values())


def total(counts: Counts, prefix: str) -> float:
    """The sum of what begins with a word, such as ``sectors``."""
    return sum(value for name, value in counts.items() if name.split(" ")[0] == prefix)


def matrix_flop(counts: Counts) -> dict[str, float]:
    """Operations of matrix instructions by type: 2 m n k each."""
    flop: dict[str, float] = defaultdict(float)
    for name, value in counts.items():
        found = re.fullmatch(r"matrix m(\d+)n(\d+)k(\d+)\.(\w+)", name)
        if found:
            flop[found[4]] += 2 * int(found[1]) * int(found[2]) * int(found[3]) * value
    return dict(flop)


def sector_efficiency(counts: Counts) -> float:
    """Bytes asked for of those in the sectors that bring them; 1 where nothing is asked for."""
    sectors = total(counts, "sectors")
    return total(counts, "bytes") / (32 * sectors) if sectors else 1.0
