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
POSITIVES = 6 * 8 * 2**15 / BLOCK
"""What is in float64 at a time, in a few copies; the same for any number of rows."""

# What is alive at the peak of the ring's backward pass besides what the kernel needs, in blocks:
# what is at work and what arrives; the sum of the queries' gradients, its new part.
RING = 4
# What the other side has collected: its new part, what leaves, what arrives.
COLLECTED = 3

DESIGN = {
    "clip": RING + COLLECTED - 2,  # both gradients are returned
    "info_nce": RING + COLLECTED - 2,
    "ntxent": 2 * (RING + COLLECTED + 1),  # both views together, in all, and joined
}
KERNELS = {"clip": 1, "info_nce": 1, "ntxent": 2}  # of rows and keys as many as a rank has pairs


@functools.cache
def blocks(loss: str, processes: int, strategy: str) -> float:
    peak = measure_peak(Job(loss, ROWS * processes, DIM, "float32", processes, strategy))
    if peak is None:
        pytest.skip("the system does not tell the peak")
    return peak / BLOCK


def constant(loss: str) -> float:
    """What any number of ranks may need around the ring, in blocks."""
    return KERNELS[loss] * blocks("clip", 1, SINGLE) + DESIGN[loss] + POSITIVES + NOISE


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("loss", DESIGN)
def test_ring_needs_a_constant_number_of_blocks(loss: str, processes: int) -> None:
    assert blocks(loss, processes, "ring") < constant(loss)


@pytest.mark.parametrize("loss", DESIGN)
def test_gathering_grows_with_the_ranks(loss: str) -> None:
    """By the rows of four more ranks at least, which it holds."""
    few, many = (blocks(loss, processes, "gather") for processes in (4, 8))
    assert many > few + 4 - NOISE
    assert many > constant(loss)
