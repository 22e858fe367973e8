"""Counts of large sizes from those of small ones.

With T tiles of rows and as many of columns, which are split among s blocks, every count of a
kernel that walks along tiles is a sum of four terms, exactly:

    launches, T, T^2 (pairs of tiles), T s (blocks)

Four runs leave nothing to adjust; a fifth, larger one says whether the fit holds. It does not quite
where nvcc unrolls a loop over s, or over rows in a kernel of a single block: what is left of an
unrolled loop is no multiple of anything. Those kernels are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslkern.model.counts import Counts


@dataclass(frozen=True)
class Walk:
    """How a kernel is launched: in ``launches`` parts of its rows."""

    tiles: int
    splits: int
    launches: int = 1

    @property
    def terms(self) -> tuple[int, int, int, int]:
        """What counts are sums of multiples of."""
        return self.launches, self.tiles, self.tiles**2, self.tiles * self.splits


SMALL = (Walk(4, 1), Walk(4, 2), Walk(6, 2), Walk(8, 2))
CHECK = Walk(10, 4)
"""Every tile has its kinds of neighbours from four on; the sums that blocks write, 8 bytes each,
fill whole sectors."""


@dataclass(frozen=True)
class Fit:
    """The multiples of the terms, by the name of the count, and how far the check was off."""

    factors: dict[str, tuple[float, ...]]
    error: float
    checked: tuple[Walk, Counts]

    def at(self, walk: Walk) -> Counts:
        """The counts of a walk of any size; where the fit is off, at least those of the check."""
        found = {name: _value(factors, walk) for name, factors in self.factors.items()}
        smaller, counts = self.checked
        if self.error > 0 and walk.tiles >= smaller.tiles:
            return {name: max(value, counts.get(name, 0)) for name, value in found.items()}
        return found


def fit(runs: Sequence[tuple[Walk, Counts]], check: tuple[Walk, Counts]) -> Fit:
    """Solve for the multiples and compare with one more run; the error is the largest relative."""
    terms = np.array([walk.terms for walk, _ in runs], dtype=np.float64)
    names = sorted({name for _, counts in [*runs, check] for name in counts})
    factors = {}
    for name in names:
        values = np.array([counts.get(name, 0) for _, counts in runs], dtype=np.float64)
        solved = np.linalg.solve(terms, values)
        factors[name] = tuple(float(x) for x in solved)
    walk, counts = check
    error = max(_error(_value(factors[name], walk), counts.get(name, 0)) for name in names)
    return Fit(factors, error, check)


def _value(factors: tuple[float, ...], walk: Walk) -> float:
    return sum(factor * term for factor, term in zip(factors, walk.terms, strict=True))


def _error(found: float, expected: float) -> float:
    error = abs(found - expected) / max(abs(expected), 1.0)
    return error if error > 1e-9 else 0.0  # of the solution in float64
