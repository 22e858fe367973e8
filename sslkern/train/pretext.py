"""What recipes of pretext tasks share: one view of each image, and how many answers are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods.parts.pretext import PretextTask
from sslkern.train.images import RAW, image_recipe, probe_features, probe_pixels
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed


def encoder_of(method: PretextTask) -> nn.Module:
    """The encoder."""
    return method.encoder


class PooledMaps(nn.Module):
    """The encoder's feature maps, averaged over the quarters of the image."""

    def __init__(self, method: PretextTask) -> None:
        super().__init__()
        self.encoder: Any = method.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, 4 map_dim)."""
        maps: Tensor = self.encoder.maps(images)
        return F.adaptive_avg_pool2d(maps, 2).flatten(1)


Features = Callable[[PretextTask], nn.Module]


def pretext_recipe(
    title: str,
    build: Any,
    answers: int,
    evidence: Evidence,
    *,
    features: Features = encoder_of,
    least_side: int = 1,
    **settings: Any,
) -> Recipe:
    """A recipe of a task: probes of the encoder, and how many answers are right.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        answers: How many possible answers a problem has; pixels alone guess one of them.
        evidence: Of the probes or of ``task``, the share of right answers on the other half.
        features: What is probed, of a method.
        least_side: Images with shorter sides are enlarged.
        settings: Other fields of `Recipe`, in place of those meant here.
    """

    def guess(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
        return probe_pixels(train, test, generator) | {"task": 1 / answers}

    def batch(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        return (enlarged(random_view(samples.images[index], generator), least_side),)

    def measure(
        method: PretextTask, train: LabelledImages, test: LabelledImages, generator: torch.Generator
    ) -> Measures:
        train, test = (
            dataclasses.replace(half, images=enlarged(half.images, least_side))
            for half in (train, test)
        )
        with global_seed(0):
            task = float(method.accuracy(test.images))
        return probe_features(features(method), train, test, generator) | {"task": task}

    common = {
        "data": ("digits", "photos"),
        "batch": batch,
        "measure": measure,
        "evidence": evidence,
        "baselines": {RAW: guess},
    }
    return image_recipe(title, build, **{**common, **settings})


def enlarged(images: Tensor, least_side: int) -> Tensor:
    """Images scaled up by a whole number, so that no side is shorter."""
    factor = -(-least_side // min(images.shape[2:]))
    return images if factor == 1 else F.interpolate(images, scale_factor=factor, mode="bilinear")
