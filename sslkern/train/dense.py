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


class LevelEncoder(ConvEncoder):
    """A `ConvEncoder` whose output is a list, of the mean of the maps of each convolution.

    Attributes:
        level_dims: Width of each.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__(shape, width)
        convolutions = [x for x in self.layers if isinstance(x, nn.Conv1d | nn.Conv2d)]
        self.level_dims = [convolution.out_channels for convolution in convolutions]

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Map images (B, C, ...), of any size, to features (B, level_dims[i]) each."""
        levels = []
        for layer in list(self.layers)[:-1]:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                levels.append(images.flatten(2).mean(2))
        return levels


class FlatMaps(nn.Module):
    """The last maps of a `ConvEncoder` as features (B, D), whatever its output is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Map images to features (B, D)."""
        assert isinstance(self.encoder, ConvEncoder)
        return self.encoder.maps(images).flatten(1)


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
    return probe_features(FlatMaps(method.encoder), train, test, generator)


def embed_maps(method: Method, samples: LabelledImages) -> tuple[Tensor, Tensor]:
    """Maps of two views of each image as features, always the same views."""
    index, generator = torch.arange(len(samples)), torch.Generator().manual_seed(0)
    view_a, view_b = two_views(samples, index, generator)
    return encode(FlatMaps(method.encoder), view_a), encode(FlatMaps(method.encoder), view_b)
