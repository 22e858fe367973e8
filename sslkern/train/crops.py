"""What recipes of several crops share: large and small random views of images."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.train.recipe import Batch

CROPPED = ("digits", "photos")
"""Data sets whose small crops the encoder maps to features of the same width."""


def crops(small: int = 2) -> Batch:
    """Batches of two views and, of further views, windows of 3/4 of the side.

    Args:
        small: How many windows.
    """

    def batch(
        samples: LabelledImages, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        images = samples.images[index]
        views = [random_view(images, generator) for _ in range(2 + small)]
        return *views[:2], *(window(view, generator) for view in views[2:])

    return batch


def indexed_crops(small: int = 2) -> Batch:
    """The same crops, and before them which images they are of."""
    batch = crops(small)
    return lambda samples, index, generator: (index, *batch(samples, index, generator))


def window(images: Tensor, generator: torch.Generator) -> Tensor:
    """A window (B, C, S, S) at a random place of each image (B, C, H, H), with S = 3/4 H."""
    side = images.shape[-1]
    size = 3 * side // 4
    place = torch.randint(0, side - size + 1, (2, len(images), 1), generator=generator)
    row, column = place + torch.arange(size)
    image = torch.arange(len(images))[:, None, None]
    return images[image, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
