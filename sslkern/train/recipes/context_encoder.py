"""Context encoder on images: the middle half of the sides is hidden."""

from pathlib import Path

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.methods import ContextEncoder
from sslkern.train.decoder import ConvDecoder, discriminator
from sslkern.train.encoder import image_encoder
from sslkern.train.generation import explained, probe_pixels_and_mean
from sslkern.train.images import RAW, image_recipe, probe_encoder
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures

MEAN = 0.35
"""Of the pixels, about: images are shifted by it, so that what is hidden has the mean colour."""


def build(samples: LabelledImages, overlap: int, adversarial_weight: float) -> ContextEncoder:
    channels, side, _ = samples.images.shape[1:]
    encoder, size = image_encoder(samples), side // 2
    shape = (channels, size, size)
    return ContextEncoder(
        encoder,
        encoder.feature_dim,
        ConvDecoder(encoder.feature_dim, shape),
        discriminator(shape),
        size=size,
        overlap=overlap,
        adversarial_weight=adversarial_weight,
    )


def shifted(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    return (samples.images[index] - MEAN,)


def measure(
    model: ContextEncoder, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    images = test.images - MEAN
    share = explained(model.predict(images), model.square(images))
    return probe_encoder(model, train, test, generator) | {"explained": share}


def pictures(
    model: ContextEncoder, train: LabelledImages, test: LabelledImages, folder: Path
) -> None:
    shown = test.images[:SHOWN] - MEAN
    rows = {"seen": model.hide(shown), "predicted": model.inpaint(shown), "image": shown}
    save_grid({name: row + MEAN for name, row in rows.items()}, folder / "inpainted.png")


RECIPE = image_recipe(
    "Context encoder",
    build,
    data=("digits", "photos"),
    batch=shifted,
    measure=measure,
    evidence=Evidence("explained", 0.3),
    options={"overlap": 0, "adversarial_weight": 0.001},
    baselines={RAW: probe_pixels_and_mean},
    embed=None,
    quick=15,
    pictures=pictures,
)
