"""What recipes of images with captions share: encoders, batches, retrieval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkern.data import Pairs
from sslkern.methods.parts.dual_encoder import DualEncoder
from sslkern.train.encoder import ConvEncoder
from sslkern.train.language import CaptionEncoder
from sslkern.train.recipe import Measures, Recipe

TEXT_DIM = 32


def caption_recipe(title: str, build: Any, **settings: Any) -> Recipe:
    """A recipe of images and captions, measured by what is found in the other half.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """
    common = {
        "data": ("pairs",),
        "batch": captioned,
        "measure": find,
        "embed": embed_captioned,
        "batch_size": 64,
    }
    return Recipe(title, build=build, **{**common, **settings})


def encoders(samples: Pairs) -> tuple[nn.Module, nn.Module, int, int]:
    """Encoders of images and captions, and the widths of their features."""
    image_encoder = ConvEncoder(tuple(samples.images.shape[1:]), 16)
    text_encoder = CaptionEncoder(len(samples.vocabulary), samples.tokens.shape[1], TEXT_DIM)
    return image_encoder, text_encoder, image_encoder.feature_dim, TEXT_DIM


def captioned(samples: Pairs, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images and their captions."""
    return samples.images[index], samples.tokens[index]


def embed_captioned(method: Any, samples: Pairs) -> tuple[Tensor, Tensor]:
    """Unit rows of images and of their captions."""
    was_training = method.training
    method.eval()
    with torch.no_grad():
        rows: tuple[Tensor, Tensor] = method.embed_pairs(samples.images, samples.tokens)
    method.train(was_training)
    return rows


def find(method: DualEncoder, train: Pairs, test: Pairs, generator: torch.Generator) -> Measures:
    """Accuracies on the test half.

    Returns:
        zero_shot: How often the caption of an image's class is the nearest of the ten.
        image_to_text: How often the nearest caption in the half is of the image's class.
        text_to_image: How often the nearest image in the half is of the caption's class.
    """
    images, texts = embed_captioned(method, test)
    classes = method.embed_texts(test.captions())
    similarity = images @ texts.T
    nearest = (images @ classes.T).argmax(1)
    return {
        "zero_shot": _share(nearest == test.labels),
        "image_to_text": _share(test.labels[similarity.argmax(1)] == test.labels),
        "text_to_image": _share(test.labels[similarity.argmax(0)] == test.labels),
    }


def _share(right: Tensor) -> float:
    return right.double().mean().item()
