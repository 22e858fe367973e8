"""VAE on images."""

from pathlib import Path

import torch

from sslkern.data import LabelledImages
from sslkern.methods import VAE
from sslkern.train.decoder import perceptron_decoder, perceptron_encoder
from sslkern.train.generation import plain_images
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed

WIDTH = 128


def build(samples: LabelledImages, latent_dim: int) -> VAE:
    shape = tuple(samples.images.shape[1:])
    encoder, decoder = perceptron_encoder(shape, WIDTH), perceptron_decoder(latent_dim, shape)
    return VAE(encoder, WIDTH, decoder, latent_dim=latent_dim)


def measure(
    model: VAE, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    with global_seed(0):
        return {"bound": float(model(test.images))}


def mean_image(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
    """The same bound of a decoder that gives the mean image whatever the code."""
    mean = train.images.mean(0).clamp(1e-4, 1 - 1e-4).expand_as(test.images)
    error = torch.nn.functional.binary_cross_entropy(mean, test.images, reduction="sum")
    return {"bound": float(error) / len(test)}


def pictures(model: VAE, train: LabelledImages, test: LabelledImages, folder: Path) -> None:
    shown = test.images[:SHOWN]
    with global_seed(0):
        drawn = model.sample(SHOWN)
    rows = {"image": shown, "reconstructed": model.reconstruct(shown), "drawn": drawn}
    save_grid(rows, folder / "samples.png")


RECIPE = Recipe(
    "VAE",
    data=("digits", "photos"),
    build=build,
    batch=plain_images,
    measure=measure,
    evidence=Evidence("bound", 18.3, higher=False),
    options={"latent_dim": 8},
    baselines={"mean image": mean_image},
    quick=30,
    batch_size=32,
    pictures=pictures,
)
