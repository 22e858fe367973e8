"""MICLe on images, with cases of two images of one class each."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import MICLe, draw_partners
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence

IMAGES_OF_A_CASE = 2


def build(samples: LabelledImages, temperature: float, projection_dim: int) -> MICLe:
    encoder = image_encoder(samples)
    return MICLe(
        encoder, encoder.feature_dim, projection_dim=projection_dim, temperature=temperature
    )


def cases(labels: Tensor) -> Tensor:
    """A case (N,) of each image: those next to each other in a class, whose order is random."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    place = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    case = torch.empty_like(labels)
    case[order] = ordered * len(labels) + place // IMAGES_OF_A_CASE
    return case


def pairs(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    case = cases(samples.labels)
    wanted = index[first_of_each(case[index])]
    partners = draw_partners(case, wanted, generator)
    return (
        random_view(samples.images[wanted], generator),
        random_view(samples.images[partners], generator),
    )


def first_of_each(values: Tensor) -> Tensor:
    """Places of the values that have not come before."""
    before = (values[:, None] == values).tril(-1)
    return torch.nonzero(~before.any(1))[:, 0]


RECIPE = image_recipe(
    "MICLe",
    build,
    batch=pairs,
    options={"temperature": 0.5, "projection_dim": 64},
    evidence=Evidence("linear", 0.03),
)
