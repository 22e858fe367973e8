"""SimCLR v2's distillation on images: from a network with few labels into one of half its width."""

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import SimCLRDistillation
from sslkern.train.encoder import image_encoder
from sslkern.train.fine_tuning import teacher
from sslkern.train.images import IMAGES
from sslkern.train.recipe import Evidence, Measures, Recipe


def build(samples: LabelledImages, temperature: float, width: int) -> SimCLRDistillation:
    encoder = image_encoder(samples, width)
    return SimCLRDistillation(
        encoder,
        encoder.feature_dim,
        teacher(samples),
        len(samples.classes),
        temperature=temperature,
    )


def view(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    return (random_view(samples.images[index], generator),)


def measure(
    model: SimCLRDistillation,
    train: LabelledImages,
    test: LabelledImages,
    generator: torch.Generator,
) -> Measures:
    student, taught = (f(test.images).argmax(1) for f in (model.logits, model.soft_labels))
    pairs = {
        "accuracy": (student, test.labels),
        "teacher": (taught, test.labels),
        "agreement": (student, taught),
    }
    return {name: float((a == b).double().mean()) for name, (a, b) in pairs.items()}


RECIPE = Recipe(
    "SimCLR v2, distillation",
    data=IMAGES,
    build=build,
    batch=view,
    measure=measure,
    evidence=Evidence("accuracy", 0.6),
    options={"temperature": 1.0, "width": 16},
    quick=15,
)
