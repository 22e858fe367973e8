"""What recipes of pretext tasks share: batches of one view, and how many answers are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods.parts.pretext import PretextTask
from sslkern.train.images import RAW, image_recipe, probe_encoder, probe_pixels
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed


def pretext_recipe(title: str, build: Any, answers: int, margin: float, **settings: Any) -> Recipe:
    """A recipe of a task, whose evidence is the share of right answers on the other half.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        answers: How many possible answers a problem has; pixels alone guess one of them.
        margin: Least gain of the share of right answers.
        settings: Other fields of `Recipe`, in place of those meant here.
    """

    def guess(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
        return probe_pixels(train, test, generator) | {"task": 1 / answers}

    common = {
        "data": ("digits", "photos"),
        "batch": one_view,
        "measure": probe_and_task,
        "evidence": Evidence("task", margin),
        "baselines": {RAW: guess},
    }
    return image_recipe(title, build, **{**common, **settings})


def one_view(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    """A random view of each image of a batch."""
    return (random_view(samples.images[index], generator),)


def as_they_are(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor]:
    """The images of a batch."""
    return (samples.images[index],)


def probe_and_task(
    method: PretextTask, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Accuracies of probes on the encoder's features, and of the method at its own task."""
    with global_seed(0):
        task = float(method.accuracy(test.images))
    return probe_encoder(method, train, test, generator) | {"task": task}
