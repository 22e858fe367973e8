"""The handwritten digits that come with scikit-learn: real scans, nothing to download."""

from __future__ import annotations

import torch

from sslkern.data.samples import LabelledImages


def load_digits() -> LabelledImages:
    """Load all 1797 images (N, 1, 8, 8), float32 in [0, 1]; 0 is paper and 1 is ink.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source: https://archive.ics.uci.edu/dataset/80 (its test part), as packed in scikit-learn.
    """
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)
    return LabelledImages(images, torch.from_numpy(labels).long(), tuple("0123456789"))
