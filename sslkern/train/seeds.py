"""Independent random streams from the one seed of a run."""

from __future__ import annotations

import torch

PURPOSES = ("split", "weights", "batches", "labels")
"""What a run draws at random. Each has its own stream, so that a change of one keeps the others."""


def derived_seed(seed: int, purpose: str) -> int:
    """A seed that no other purpose and no other run's seed leads to."""
    return seed * len(PURPOSES) + PURPOSES.index(purpose)


def generator(seed: int, purpose: str) -> torch.Generator:
    """A fresh CPU generator for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
