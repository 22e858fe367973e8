"""GAN on digits."""

from pathlib import Path

import torch
from torch.optim import Adam, Optimizer

from sslkern.data import LabelledImages
from sslkern.methods import GAN, Method
from sslkern.train.decoder import generator, perceptron_encoder
from sslkern.train.generation import frechet_distance, plain_images
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed

WIDTH = 128


def build(samples: LabelledImages, latent_dim: int) -> GAN:
    shape = tuple(samples.images.shape[1:])
    return GAN(
        perceptron_encoder(shape, WIDTH), WIDTH, generator(latent_dim, shape), latent_dim=latent_dim
    )


def adam(method: Method, lr: float) -> Optimizer:
    """With little momentum: the other player moves at the same time."""
    return Adam(method.trainable(), lr=lr, betas=(0.5, 0.999))


def measure(
    model: GAN, train: LabelledImages, test: LabelledImages, source: torch.Generator
) -> Measures:
    with global_seed(0):
        samples = model.sample(len(test))
    return {"distance": frechet_distance(samples, test.images)}


def real(train: LabelledImages, test: LabelledImages, source: torch.Generator) -> Measures:
    """The distance of the training half, which is what two samples of one distribution have."""
    return {"distance": frechet_distance(train.images, test.images)}


def mean_image(train: LabelledImages, test: LabelledImages, source: torch.Generator) -> Measures:
    """The distance of a generator that always makes the mean image."""
    return {"distance": frechet_distance(train.images.mean(0).expand(2, -1, -1, -1), test.images)}


def pictures(model: GAN, train: LabelledImages, test: LabelledImages, folder: Path) -> None:
    with global_seed(0):
        rows = {"generated": model.sample(SHOWN), "real": test.images[:SHOWN]}
    save_grid(rows, folder / "samples.png")


RECIPE = Recipe(
    "GAN",
    data=("digits",),
    build=build,
    batch=plain_images,
    measure=measure,
    evidence=Evidence("distance", 7.0, higher=False),
    options={"latent_dim": 16},
    baselines={"real": real, "mean image": mean_image},
    quick=60,
    epochs=400,
    batch_size=64,
    lr=4e-3,
    optimizer=adam,
    pictures=pictures,
)
