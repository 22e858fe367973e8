"""DeepCluster on images."""

from typing import Any

import torch

from sslkern.data import LabelledImages
from sslkern.methods import DeepCluster
from sslkern.train.clusters import features_of, indexed_view
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(samples: LabelledImages, clusters: int, components: int) -> DeepCluster:
    encoder = image_encoder(samples)
    return DeepCluster(
        encoder,
        encoder.feature_dim,
        len(samples),
        clusters=min(clusters, len(samples)),
        components=components,
    )


def cluster(model: DeepCluster, samples: LabelledImages, generator: torch.Generator) -> None:
    model.cluster(features_of(model, samples), generator)


def optimizer(model: DeepCluster, lr: float) -> torch.optim.Optimizer:
    """The classifier begins anew each epoch, and has to follow faster than the encoder changes."""
    classifier, encoder = model.classifier.parameters(), model.encoder.parameters()
    groups: list[dict[str, Any]] = [
        {"params": [*encoder]},
        {"params": [*classifier], "lr": 10 * lr},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=1e-4)


# The loss begins near log(clusters) in every epoch, with the classifier.
RECIPE = image_recipe(
    "DeepCluster",
    build,
    batch=indexed_view,
    begin_epoch=cluster,
    optimizer=optimizer,
    options={"clusters": 30, "components": 32},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=12,
)
