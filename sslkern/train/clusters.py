"""What recipes of methods share that label the training set between epochs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.train.probe import encode


def indexed_view(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random view of each image of a batch, and which images they are of."""
    return random_view(samples.images[index], generator), index


def features_of(method: Any, samples: LabelledImages) -> Tensor:
    """Of all training images as they are, (N, F)."""
    return encode(method.encoder, samples.images)
