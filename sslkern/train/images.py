"""What recipes on images share: an encoder for each data set, views, probes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import Method
from sslkern.train.probe import Features, encode, probe
from sslkern.train.recipe import Measures, Recipe

IMAGES = ("digits", "photos", "mnist1d")
RAW = "raw pixels"


def image_recipe(title: str, build: Any, **settings: Any) -> Recipe:
    """A recipe of two views of images, probed on the encoder's features.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """
    common = {
        "data": IMAGES,
        "batch": two_views,
        "measure": probe_encoder,
        "baselines": {RAW: probe_pixels},
        "embed": embed_views,
    }
    return Recipe(title, build=build, **{**common, **settings})


def two_views(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Two random views of each image of a batch."""
    images = samples.images[index]
    return random_view(images, generator), random_view(images, generator)


def indexed_views(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Two random views, and which images they are of."""
    return *two_views(samples, index, generator), index


def embed_views(method: Method, samples: LabelledImages) -> tuple[Tensor, Tensor]:
    """Features of two views of each image, always the same views."""
    index, generator = torch.arange(len(samples)), torch.Generator().manual_seed(0)
    view_a, view_b = two_views(samples, index, generator)
    return encode(method.encoder, view_a), encode(method.encoder, view_b)


def probe_encoder(
    method: Method, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Accuracies of probes on the frozen encoder's features."""
    return probe_features(method.encoder, train, test, generator)


def probe_pixels(
    train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """The same of the images as they are."""
    return probe_features(nn.Flatten(), train, test, generator)


def probe_features(
    encoder: nn.Module, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Accuracies of probes on what a module makes of images."""
    return dataclasses.asdict(probe(image_features(encoder, train, test), generator))


def image_features(encoder: nn.Module, train: LabelledImages, test: LabelledImages) -> Features:
    """Features of both halves."""
    return Features(
        encode(encoder, train.images), train.labels, encode(encoder, test.images), test.labels
    )
