"""What recipes share whose predictions meet targets without negatives, and so may collapse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.data import LabelledImages
from sslkern.train.images import RAW, image_recipe, probe_encoder, probe_pixels, two_views
from sslkern.train.recipe import Measures, Recipe


def siamese_recipe(
    title: str, build: Any, target: Callable[[Any, Tensor], Tensor], **settings: Any
) -> Recipe:
    """A recipe of two views that is probed, and whose predictions are compared with all targets.

    At this scale features are still good for a probe while projections collapse, as they do
    without the stopped gradient: the evidence is how far predictions tell images apart.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        target: The method and a view (B, ...) -> what the other view's predictions meet, (B, D).
        settings: Other fields of `Recipe`.
    """

    def measure(
        method: Any, train: LabelledImages, test: LabelledImages, generator: torch.Generator
    ) -> Measures:
        probes = probe_encoder(method, train, test, generator)
        return probes | separation(
            lambda view: method.predictor(method.project(view)),
            lambda view: target(method, view),
            test,
        )

    baselines = {RAW: pixels}
    return image_recipe(title, build, measure=measure, baselines=baselines, **settings)


def pixels(train: LabelledImages, test: LabelledImages, generator: torch.Generator) -> Measures:
    """The same of the images as they are."""
    flat = nn.Flatten()
    return probe_pixels(train, test, generator) | separation(flat, flat, test)


@torch.no_grad()
def separation(
    predict: Callable[[Tensor], Tensor],
    target: Callable[[Tensor], Tensor],
    samples: LabelledImages,
) -> Measures:
    """Cosine of predictions with the targets of their own images, less that with all targets.

    It is 0 where predictions say nothing of the image, as before training, and where all of them
    are one.
    """
    index, views = torch.arange(len(samples)), torch.Generator().manual_seed(0)
    view_a, view_b = two_views(samples, index, views)
    predictions, targets = F.normalize(predict(view_a)), F.normalize(target(view_b))
    own = (predictions * targets).sum(1).mean()
    return {"separation": float(own - predictions.mean(0) @ targets.mean(0))}
