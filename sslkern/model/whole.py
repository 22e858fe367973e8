"""Operators whose kernels go along rows or columns of what is given: counted as they are.

All of a size is executed, which takes minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sslkern
from sslkern.bench import (
    covariance,
    cross_correlation,
    sampled_logits,
    sinkhorn,
    soft_cross_entropy,
    swapped_prediction,
)
from sslkern.bench.contenders import Case, Size, working_dtype
from sslkern.bench.products import gram_flops
from sslkern.model.runs import run
from sslkern.model.work import Counted, Work

MOST_ELEMENTS = 1 << 28
"""Of inputs and of matrices between them: some ten minutes of the interpreter."""

Works = Callable[[Size, int], dict[str, Work]]
"""Of a size and the bytes of an element, by pass."""


@dataclass(frozen=True)
class Whole:
    """A loss with the inputs of its benchmark."""

    case: Case
    loss: Callable[..., Tensor]
    works: Works
    elements: Callable[[Size], int]

    @property
    def name(self) -> str:
        """As in the benchmarks."""
        return self.case.name

    @property
    def default_sizes(self) -> tuple[Size, ...]:
        """Those of the benchmark."""
        return self.case.default_sizes

    def check_size(self, size: Size) -> None:
        """Raise ValueError for what the loss does not have, and for what would take hours."""
        self.case.check_size(size)
        if self.elements(size) > MOST_ELEMENTS:
            raise ValueError(
                f"expected at most {MOST_ELEMENTS} elements of {self.name}, all of which are"
                f" executed, got {self.elements(size)} of size {size}"
            )

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the arithmetic: only those of columns have products, which are standardised."""
        return working_dtype(dtype)

    def count(self, library: Any, size: Size, dtype: torch.dtype) -> Counted:
        """All of it."""
        found = run(library, self.loss, self.case.make_inputs(size, dtype), self.case.gradients)
        kernels = {
            part: {kernel: (counts, 0.0) for kernel, counts in of_pass.items()}
            for part, of_pass in found.kernels.items()
        }
        return Counted(kernels, found.product_flop)

    def work(self, part: str, size: Size, dtype: torch.dtype) -> Work:
        """Of a pass."""
        return self.works(size, dtype.itemsize)[part]


def _matrix(size: Size) -> int:
    return size.rows * size.dim


def _sinkhorn(size: Size, itemsize: int) -> dict[str, Work]:
    """Scores read once more than there are iterations, with an exponential each; the plan.

    Where a block holds all of a problem it reads them once: there this is no floor.
    """
    n, reads = _matrix(size), sinkhorn.ITERATIONS + 1
    return {"forward": Work(bytes=(reads + 1) * n * itemsize, exponentials=reads * n)}


def _swav(size: Size, itemsize: int) -> dict[str, Work]:
    """All views read in each pass; those that are assigned, once more for each iteration.

    The backward pass has the same exponentials of views and their targets. Of few rows iterations
    are as in `_sinkhorn`.
    """
    n, high = _matrix(size), swapped_prediction.HIGH
    views, iterations = high + swapped_prediction.LOW, sinkhorn.ITERATIONS * high
    return {
        "forward": Work((views + iterations) * n * itemsize, (views + high + iterations) * n),
        "backward": Work(2 * views * n * itemsize, (views + high) * n),
    }


def _soft_cross_entropy(size: Size, itemsize: int) -> dict[str, Work]:
    """Student and teacher read in each pass, an exponential each; the student's gradient."""
    n = _matrix(size)
    return {
        "forward": Work(2 * n * itemsize, 2 * n),
        "backward": Work(3 * n * itemsize, 2 * n),
    }


def _views(size: Size, itemsize: int) -> dict[str, Work]:
    """Both views in each pass, and their gradients; of the products one third is forward."""
    n, flop = 2 * _matrix(size), gram_flops(size)
    return {
        "forward": Work(n * itemsize, product_flop=flop / 3),
        "backward": Work(2 * n * itemsize, product_flop=flop * 2 / 3),
    }


def _negative_sampling(size: Size, itemsize: int) -> dict[str, Work]:
    """The query and, once, all rows that are drawn, in each pass; the gradients of both.

    What torch makes of the logits is in no kernel, nor are the zeros of all other rows' gradient.
    """
    rows, logits = sampled_logits.VOCABULARY, size.rows * (sampled_logits.NEGATIVES + 1)
    drawn = -rows * math.expm1(logits * math.log1p(-1 / rows))  # at least once, as expected
    read = (drawn + size.rows) * size.dim
    return {
        "forward": Work(read * itemsize),
        "backward": Work(2 * read * itemsize),
    }


def _both_matrices(size: Size) -> int:
    return 2 * _matrix(size)


def _sampled(size: Size) -> int:
    return (size.rows * (sampled_logits.NEGATIVES + 1) + sampled_logits.VOCABULARY) * size.dim


def _views_and_products(size: Size) -> int:
    return 2 * _matrix(size) + min(size.rows, size.dim) ** 2


def _all_views(size: Size) -> int:
    return (swapped_prediction.HIGH + swapped_prediction.LOW) * _matrix(size)


WHOLE = (
    Whole(sinkhorn.CASE, sslkern.sinkhorn, _sinkhorn, _matrix),
    Whole(
        swapped_prediction.CASE,
        swapped_prediction.of_views(sslkern.swav_loss),
        _swav,
        _all_views,
    ),
    Whole(
        soft_cross_entropy.CASE,
        soft_cross_entropy.at_dino_temperatures(sslkern.soft_cross_entropy),
        _soft_cross_entropy,
        _both_matrices,
    ),
    Whole(cross_correlation.CASE, sslkern.barlow_twins_loss, _views, _views_and_products),
    Whole(covariance.CASE, sslkern.vicreg_loss, _views, _views_and_products),
    Whole(sampled_logits.CASE, sslkern.negative_sampling_loss, _negative_sampling, _sampled),
)
