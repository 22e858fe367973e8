"""The handwritten digits that come with scikit-learn: real scans, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """Images and the digits that they show.

    Attributes:
        images: (N, 1, 8, 8) float32 in [0, 1]; 0 is paper and 1 is ink.
        labels: (N,) int64 in 0..9.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def take(self, index: Tensor) -> Digits:
        """The images and labels at ``index`` (M,) int64."""
        return Digits(self.images[index], self.labels[index])


def load_digits() -> Digits:
    """Load all 1797 images.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source: https://archive.ics.uci.edu/dataset/80 (its test part), as packed in scikit-learn.
    """
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)
    return Digits(images, torch.from_numpy(labels).long())


def split_half(digits: Digits, generator: torch.Generator) -> tuple[Digits, Digits]:
    """Split at random into a training half, N // 2 images, and a test half, the others."""
    order = torch.randperm(len(digits), generator=generator)
    half = len(digits) // 2
    return digits.take(order[:half]), digits.take(order[half:])
