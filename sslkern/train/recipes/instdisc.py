"""Instance discrimination on images."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import InstDisc
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.instances import centered
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    negatives: int,
    momentum: float,
) -> InstDisc:
    encoder = image_encoder(samples)
    return InstDisc(
        centered(encoder),
        encoder.feature_dim,
        len(samples),
        projection_dim=projection_dim,
        negatives=negatives,
        temperature=temperature,
        momentum=momentum,
    )


def indexed_view(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    return random_view(samples.images[index], generator), index


RECIPE = image_recipe(
    "Instance discrimination",
    build,
    batch=indexed_view,
    options={"temperature": 0.2, "projection_dim": 64, "negatives": 64, "momentum": 0.5},
    evidence=Evidence("linear", 0.025),
    batch_size=64,
    quick=20,
)
