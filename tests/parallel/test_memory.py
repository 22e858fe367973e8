"""Peak memory of a rank with as many rows on more and more ranks: around a ring it stays.

In blocks: matrices of the pairs of a rank, n x D, in float32.
"""

from __future__ import annotations

import functools

import pytest

from sslkern.bench.scaling import SINGLE, Job, measure_peak

ROWS, DIM = 256, 1024
BLOCK = 4 * ROWS * DIM

NOISE = 0.5
"""Of a block: what belongs to rows, less than 200 bytes beside the 4096 of a row, in a few copies;
and pages."""

# What is alive at the peak of the ring's backward pass besides what the kernel needs, in blocks:
# what is at work and what arrives; the sum of the queries' gradients, its new part.
RING = 4
# What the keys have collected: it leaves, arrives, its new part. Both gradients are returned.
COLLECTED = 3 - 2

DESIGN = {
    # Features as they are, twice in float64 for the positives.
    "clip": RING + COLLECTED + 2 * 2,
    # Normalised rows, and what normalising keeps of both.
    "info_nce": RING + COLLECTED + 4 * 2,
    # Both views together, in all, and joined; the positives are done.
    "ntxent": 2 * (RING + 1),
}
KERNELS = {"clip": 1, "info_nce": 1, "ntxent": 2}  # of rows and keys as many as a rank has pairs


@functools.cache
def blocks(loss: str, processes: int, strategy: str) -> float:
    peak = measure_peak(Job(loss, ROWS * processes, DIM, "float32", processes, strategy))
    if peak is None:
        pytest.skip("the system does not tell the peak")
    return peak / BLOCK


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("loss", DESIGN)
def test_ring_needs_a_constant_number_of_blocks(loss: str, processes: int) -> None:
    kernel = KERNELS[loss] * blocks("clip", 1, SINGLE)
    assert blocks(loss, processes, "ring") < kernel + DESIGN[loss] + NOISE


@pytest.mark.parametrize("loss", DESIGN)
def test_only_gathering_grows_with_the_ranks(loss: str) -> None:
    """By the rows of four more ranks at least, which it holds."""
    few, many = (
        {name: blocks(loss, processes, name) for name in ("gather", "ring")} for processes in (4, 8)
    )
    assert many["ring"] < few["ring"] + NOISE
    assert many["gather"] > few["gather"] + 4 - NOISE
