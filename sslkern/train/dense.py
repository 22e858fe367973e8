"""What recipes of feature maps share: encoders that return maps, and probes of all their cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkern.data import LabelledImages
from sslkern.methods import Method
from sslkern.train.encoder import ConvEncoder
from sslkern.train.images import image_recipe, probe_features, probe_pixels, two_views
from sslkern.train.probe import encode
from sslkern.train.recipe import Measures, Recipe


class MapEncoder(ConvEncoder):
    """A `ConvEncoder` whose output is its last feature maps."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, *shape) to maps (B, map_dim, *map_shape)."""
        return self.maps(images)


def map_encoder(samples: LabelledImages) -> MapEncoder:
    """The encoder for the images of a data set."""
    return MapEncoder(tuple(samples.images.shape[1:]))


def dense_recipe(title: str, build: Any, **settings: Any) -> Recipe:
    """A recipe of two views of images, probed on all cells of the encoder's maps.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """
    common = {"measure": probe_maps, "embed": embed_maps, "baselines": {"pixels": probe_pixels}}
    return image_recipe(title, build, **{**common, **settings})


def probe_maps(
    method: Method, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Accuracies of probes on the frozen encoder's maps."""
    return probe_features(_flat(method.encoder), train, test, generator)


def embed_maps(method: Method, samples: LabelledImages) -> tuple[Tensor, Tensor]:
    """Maps of two views of each image as features, always the same views."""
    index, generator = torch.arange(len(samples)), torch.Generator().manual_seed(0)
    view_a, view_b = two_views(samples, index, generator)
    return encode(_flat(method.encoder), view_a), encode(_flat(method.encoder), view_b)


def _flat(encoder: nn.Module) -> nn.Module:
    """The encoder with its maps as features (B, D)."""
    return nn.Sequential(encoder, nn.Flatten())
