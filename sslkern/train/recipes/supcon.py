"""SupCon on images, with their labels."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.methods import SupCon
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe, two_views
from sslkern.train.recipe import Evidence


def build(samples: LabelledImages, temperature: float, projection_dim: int, variant: str) -> SupCon:
    encoder = image_encoder(samples)
    return SupCon(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        temperature=temperature,
        variant=variant,
    )


def labelled_views(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    return *two_views(samples, index, generator), samples.labels[index]


RECIPE = image_recipe(
    "SupCon",
    build,
    batch=labelled_views,
    options={"temperature": 0.1, "projection_dim": 64, "variant": "out"},
    evidence=Evidence("linear", 0.05),
)
