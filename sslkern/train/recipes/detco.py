"""DetCo on images, with quarters of views as patches."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import DetCo
from sslkern.train.dense import LevelEncoder, dense_recipe
from sslkern.train.images import two_views
from sslkern.train.recipe import Evidence

PATCHES = 4
WEIGHTS = (0.1, 0.4, 0.7, 1.0)
"""The paper's, for the last levels of an encoder; 0.1 for those before."""


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
) -> DetCo:
    encoder = LevelEncoder(tuple(samples.images.shape[1:]))
    levels = len(encoder.level_dims)
    return DetCo(
        encoder,
        encoder.level_dims,
        patches=PATCHES,
        projection_dim=projection_dim,
        queue_size=queue_size,
        temperature=temperature,
        momentum=momentum,
        weights=((WEIGHTS[0],) * levels + WEIGHTS)[-levels:],
    )


def views_and_patches(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    images = samples.images[index]
    patches = (quarters(random_view(images, generator)) for _ in range(2))
    return *two_views(samples, index, generator), *patches


def quarters(images: Tensor) -> Tensor:
    """(B, 4, C, H / 2, W / 2)."""
    halves = [half for rows in images.chunk(2, 2) for half in rows.chunk(2, 3)]
    return torch.stack(halves, 1)


RECIPE = dense_recipe(
    "DetCo",
    build,
    data=("digits", "photos"),
    batch=views_and_patches,
    options={"temperature": 0.2, "projection_dim": 64, "queue_size": 1024, "momentum": 0.99},
    evidence=Evidence("linear", 0.02),
    quick=15,
)
