"""Negative sampling as in word2vec: inputs, contenders and the floor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    Contender,
    Problem,
    Size,
    Step,
    standard_contenders,
    working_dtype,
)

NEGATIVES = 20
"""Of each query; Mikolov et al. give 5 to 20 as useful for small corpora."""
VOCABULARY = 100_000
"""Rows of the table: more than a cache holds."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors of N centre words, the output vectors, and rows drawn from them without preference.

    A draw by frequency would keep more of the rows in the cache, for all contenders.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(size.rows, size.dim, generator=generator)
    table = torch.randn(VOCABULARY, size.dim, generator=generator) / size.dim**0.5
    positive = torch.randint(VOCABULARY, (size.rows,), generator=generator)
    negative = torch.randint(VOCABULARY, (size.rows, NEGATIVES), generator=generator)
    return query.to(dtype), table.to(dtype), positive, negative


def check_size(size: Size) -> None:
    """Any number of queries."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of the logits and of both gradients: three times N x (K + 1) x D.

    So few for each byte that the time goes into reading rows.
    """
    return 6 * size.rows * (NEGATIVES + 1) * size.dim


def _prepare_two_passes(problem: Problem) -> Step:
    """What moves whatever the algorithm: all sampled rows in, twice, and the table's gradient out.

    `F.embedding_bag` adds up the rows of each query, so that they are read and not written.
    """
    table, positive, negative = problem.inputs[1:]
    table = table.to(working_dtype(problem.dtype))
    index = torch.cat([positive[:, None], negative], dim=1)
    gradient = torch.empty_like(table)

    def step() -> None:
        F.embedding_bag(index, table, mode="sum")
        F.embedding_bag(index, table, mode="sum")
        gradient.zero_()

    return step


CASE = Case(
    name="negative_sampling",
    title=f"negative sampling, {NEGATIVES} of {VOCABULARY} rows",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=reference.negative_sampling_loss,
    reference_matrices=2,
    flops=flops,
    # The "matrix of all similarities" here is the gather of N x (K + 1) rows.
    columns=lambda size: (NEGATIVES + 1) * size.dim,
    gradients=2,
    contenders=(
        *standard_contenders("negative_sampling_loss", eager=2, compiled=2),
        Contender(
            "two passes",
            "two F.embedding_bag over the rows, the table's gradient filled: a floor",
            _prepare_two_passes,
            is_floor=True,
        ),
    ),
    default_sizes=(Size(4096, 128), Size(16384, 128), Size(4096, 300)),
)
