"""MMCR on images."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import MMCR
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def four_views(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    images = samples.images[index]
    return tuple(random_view(images, generator) for _ in range(4))


def build(samples: LabelledImages, hidden_dim: int, projection_dim: int, lmda: float) -> MMCR:
    encoder = image_encoder(samples)
    return MMCR(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        lmda=lmda,
    )


RECIPE = image_recipe(
    "MMCR",
    build,
    batch=four_views,
    options={"hidden_dim": 256, "projection_dim": 64, "lmda": 0.0},
    evidence=Evidence("linear", 0.03),
    quick=8,
)
