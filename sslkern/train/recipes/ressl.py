"""ReSSL on images, with weak views for the teacher."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import AffineNoiseViews, CropColorViews, SignalViews, random_view
from sslkern.methods import ReSSL
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence

WEAK_DIGITS = AffineNoiseViews(
    rotation=5.0, scale=1.05, shear=0.05, shift=0.25, contrast=0.0, noise=0.0
)
WEAK_PHOTOS = CropColorViews(brightness=0.0, color=0.0, gray=0.0, noise=0.0)
WEAK_SIGNALS = SignalViews(shift=0.05, scale=0.0, noise=0.0)


def build(
    samples: LabelledImages,
    student_temperature: float,
    teacher_temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
) -> ReSSL:
    encoder = image_encoder(samples)
    return ReSSL(
        encoder,
        encoder.feature_dim,
        hidden_dim=encoder.feature_dim,
        projection_dim=projection_dim,
        queue_size=queue_size,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        momentum=momentum,
    )


def strong_and_weak(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    images = samples.images[index]
    return random_view(images, generator), weak_view(images, generator)


def weak_view(images: Tensor, generator: torch.Generator) -> Tensor:
    if images.dim() == 3:
        return WEAK_SIGNALS(images, generator)
    return (WEAK_PHOTOS if images.shape[1] == 3 else WEAK_DIGITS)(images, generator)


# The queue and the momentum are for few steps an epoch, as in the recipe of MoCo.
RECIPE = image_recipe(
    "ReSSL",
    build,
    batch=strong_and_weak,
    options={
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
    },
    evidence=Evidence("linear", 0.03),
)
