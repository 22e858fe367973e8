"""Counts of large sizes from those of small ones.

With T tiles of rows and as many of columns, which are split among s blocks, and the rows launched
in L parts, every count of a kernel that walks along tiles is a sum of a few terms, exactly:

    1, L, T, T^2 (pairs of tiles), T s (blocks), L T (columns, which each launch reads),
    T if L > 1 (what a part reads of its rows alone), T^2 / L (what each part leaves to the next)

As many runs leave nothing to adjust; one more, larger, says whether the fit holds. It does not
quite where nvcc unrolls a loop over s, or over rows in a kernel of a single block: what is left of
an unrolled loop is no multiple of anything. Those kernels are small.
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
    def terms(self) -> tuple[float, ...]:
        """What counts are sums of multiples of."""
        t, launches = self.tiles, self.launches
        of_parts = launches, launches * t, t * (launches > 1), t**2 / launches
        return 1, t, t**2, t * self.splits, *of_parts


SMALL = (
    *(Walk(4, 1), Walk(4, 2), Walk(6, 2), Walk(8, 2)),
    *(Walk(4, 2, 2), Walk(8, 2, 2), Walk(8, 2, 4), Walk(6, 2, 3)),
)
CHECK = Walk(10, 4, 5)
"""Every tile has its kinds of neighbours from four on, and every part from two; the sums that
blocks write, 8 bytes each, fill whole sectors."""


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
    """Solve for the multiples and compare with one more run; the error is the largest relative.

    Of passes that are never launched in parts some terms are the same: the least multiples do.
    """
    terms = np.array([walk.terms for walk, _ in runs], dtype=np.float64)
    names = sorted({name for _, counts in [*runs, check] for name in counts})
    factors = {}
    for name in names:
        values = np.array([counts.get(name, 0) for _, counts in runs], dtype=np.float64)
        solved = np.linalg.lstsq(terms, values)[0]
        factors[name] = tuple(float(x) for x in solved)
    walk, counts = check
    error = max(_error(_value(factors[name], walk), counts.get(name, 0)) for name in names)
    return Fit(factors, error, check)


def _value(factors: tuple[float, ...], walk: Walk) -> float:
    return sum(factor * term for factor, term in zip(factors, walk.terms, strict=True))


def _error(found: float, expected: float) -> float:
    error = abs(found - expected) / max(abs(expected), 1.0)
    return error if error > 1e-9 else 0.0  # of the solution in float64
