"""Independent random streams from the one seed of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PURPOSES = ("split", "weights", "batches", "labels")
"""What a run draws at random. Each has its own stream, so that a change of one keeps the others."""
_STEPS = 2**40
"""Where the seeds of steps begin, beyond those of any purpose and any seed of 32 bits."""


def derived_seed(seed: int, purpose: str) -> int:
    """A seed that no other purpose and no other run's seed leads to."""
    return seed * len(PURPOSES) + PURPOSES.index(purpose)


def generator(seed: int, purpose: str) -> torch.Generator:
    """A fresh CPU generator for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Torch's global generator seeded, and afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def step_seed(seed: int, step: int) -> int:
    """Of what a method draws itself, such as masks, in one step: a resumed run draws the same."""
    return _STEPS + seed * 2**20 + step
