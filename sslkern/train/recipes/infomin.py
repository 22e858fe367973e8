"""InfoMin on images, with tiles that are quarters."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import InfoMin
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence
from sslkern.train.tiles import GRID, TILED, AnySizeEncoder, cell_side


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
    key_parts: int,
    jigsaw_weight: float,
) -> InfoMin:
    encoder = AnySizeEncoder(samples)
    return InfoMin(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        queue_size=queue_size,
        temperature=temperature,
        momentum=momentum,
        key_parts=key_parts,
        jigsaw_weight=jigsaw_weight,
        grid=GRID,
        tile_size=cell_side(samples),
    )


def three_views(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    images = samples.images[index]
    return tuple(random_view(images, generator) for _ in range(3))


# Queue, momentum and parts are those of the recipe of MoCo.
RECIPE = image_recipe(
    "InfoMin",
    build,
    data=TILED,
    batch=three_views,
    options={
        "temperature": 0.15,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
        "key_parts": 4,
        "jigsaw_weight": 0.5,
    },
    evidence=Evidence("linear", 0.02),
    quick=14,
)
