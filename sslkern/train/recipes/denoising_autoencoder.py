"""Denoising autoencoder on images."""

from pathlib import Path

import torch

from sslkern.data import LabelledImages
from sslkern.methods import DenoisingAutoencoder
from sslkern.methods.denoising_autoencoder import Corruption, Loss
from sslkern.train.decoder import ConvDecoder
from sslkern.train.encoder import image_encoder
from sslkern.train.generation import explained, plain_images, probe_pixels_and_mean
from sslkern.train.images import RAW, image_recipe, probe_encoder
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures
from sslkern.train.seeds import global_seed


def build(
    samples: LabelledImages, corruption: Corruption, level: float, loss: Loss
) -> DenoisingAutoencoder:
    encoder = image_encoder(samples)
    decoder = ConvDecoder(encoder.feature_dim, tuple(samples.images.shape[1:]))
    return DenoisingAutoencoder(
        encoder,
        encoder.feature_dim,
        decoder,
        corruption=corruption,
        level=level,
        loss=loss,
    )


def measure(
    model: DenoisingAutoencoder,
    train: LabelledImages,
    test: LabelledImages,
    generator: torch.Generator,
) -> Measures:
    with global_seed(0):
        made = model.reconstruct(model.corrupt(test.images))
    share = explained(made, test.images)
    return probe_encoder(model, train, test, generator) | {"explained": share}


def pictures(
    model: DenoisingAutoencoder, train: LabelledImages, test: LabelledImages, folder: Path
) -> None:
    shown = test.images[:SHOWN]
    with global_seed(0):
        seen = model.corrupt(shown)
    rows = {"seen": seen, "reconstructed": model.reconstruct(seen), "image": shown}
    save_grid(rows, folder / "reconstructions.png")


RECIPE = image_recipe(
    "Denoising autoencoder",
    build,
    data=("digits", "photos"),
    batch=plain_images,
    measure=measure,
    evidence=Evidence("explained", 0.3),
    options={"corruption": "masking", "level": 0.5, "loss": "cross_entropy"},
    baselines={RAW: probe_pixels_and_mean},
    embed=None,
    pictures=pictures,
)
