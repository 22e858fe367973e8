"""Colorization of photographs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from sslkern.data import LabelledImages
from sslkern.methods import Colorization
from sslkern.methods.colorization import color_counts
from sslkern.methods.parts.colors import rgb_to_lab
from sslkern.train.generation import plain_images
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures, Recipe

DIM = 64
COUNTED = 200
"""Pictures whose colours are counted."""


def build(samples: LabelledImages, bin_size: float, rebalance: bool) -> Colorization:
    counts = color_counts(samples.images[:COUNTED], bin_size) if rebalance else None
    return Colorization(encoder(), DIM, bin_size=bin_size, counts=counts)


def encoder() -> nn.Sequential:
    """Lightness -> maps of a quarter of the sides."""
    layers: list[nn.Module] = []
    for width, out, stride, dilation in ((1, 32, 2, 1), (32, DIM, 2, 1), (DIM, DIM, 1, 2)):
        layers += [
            nn.Conv2d(width, out, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def measure(
    model: Colorization, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    lab = rgb_to_lab(test.images)
    return errors(model.colors(lab[:, :1]), lab)


def errors(colors: Tensor, lab: Tensor) -> Measures:
    """Mean distance of colours to those of pictures, per pixel."""
    return {"error": float((colors - lab[:, 1:]).norm(dim=1).mean())}


def gray(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
    return errors(torch.zeros(2, 1, 1), rgb_to_lab(test.images))


def mean_color(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
    mean = rgb_to_lab(train.images)[:, 1:].mean((0, 2, 3))[:, None, None]
    return errors(mean, rgb_to_lab(test.images))


def pictures(
    model: Colorization, train: LabelledImages, test: LabelledImages, folder: Path
) -> None:
    shown = test.images[:SHOWN]
    seen = (rgb_to_lab(shown)[:, :1] / 100).expand(-1, 3, -1, -1)
    save_grid(
        {"seen": seen, "colored": model.colorize(shown), "image": shown}, folder / "colors.png"
    )


RECIPE = Recipe(
    "Colorization",
    data=("photos",),
    build=build,
    batch=plain_images,
    measure=measure,
    evidence=Evidence("error", 8.0, higher=False),
    options={"bin_size": 20.0, "rebalance": True},
    baselines={"gray": gray, "mean color": mean_color},
    quick=8,
    batch_size=64,
    pictures=pictures,
)
