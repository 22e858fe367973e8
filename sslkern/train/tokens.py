"""What recipes of transformers share: an encoder of tokens, and the features of its images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkern.data import LabelledImages
from sslkern.methods.parts.patches import ClsToken
from sslkern.train.images import probe_features, probe_pixels, two_views
from sslkern.train.probe import encode
from sslkern.train.recipe import Measures, Recipe


class TokenEncoder(nn.Module):
    """A transformer over tokens: blocks with norms first, and a norm at the end.

    Args:
        dim: Width D of the tokens.
        depth: Number of blocks.
        heads: Of the attention.
        expansion: Width of the hidden layer of each block's perceptron, in D.
    """

    def __init__(self, dim: int = 64, depth: int = 2, heads: int = 4, expansion: int = 2) -> None:
        super().__init__()
        blocks = [
            nn.TransformerEncoderLayer(
                dim,
                heads,
                expansion * dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, L, D) to tokens of the same shape."""
        encoded: Tensor = self.layers(tokens)
        return encoded


def image_shape(samples: LabelledImages) -> tuple[int, int, int]:
    """(C, H, W)."""
    channels, height, width = samples.images.shape[1:]
    return channels, height, width


def patch_size(samples: LabelledImages) -> int:
    """Such that an image has 4 x 4 patches at least and 8 x 8 at most."""
    return max(2, samples.images.shape[-1] // 8)


def token_recipe(title: str, build: Any, **settings: Any) -> Recipe:
    """A recipe of a method with ``embed`` and an ``encoder`` of tokens, probed on [CLS].

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """
    common = {
        "data": ("digits", "photos"),
        "measure": probe_tokens,
        "baselines": {"pixels": probe_pixels},
        "embed": embed_token_views,
    }
    return Recipe(title, build=build, **{**common, **settings})


def probe_tokens(
    method: Any, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Accuracies of probes on [CLS] of whole images."""
    return probe_features(_cls_token(method), train, test, generator)


def embed_token_views(method: Any, samples: LabelledImages) -> tuple[Tensor, Tensor]:
    """[CLS] of two views of each image, always the same views."""
    index, generator = torch.arange(len(samples)), torch.Generator().manual_seed(0)
    view_a, view_b = two_views(samples, index, generator)
    features = _cls_token(method)
    return encode(features, view_a), encode(features, view_b)


def _cls_token(method: Any) -> nn.Sequential:
    return nn.Sequential(method.embed, method.encoder, ClsToken())
