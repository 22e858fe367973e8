"""SeLa on images."""

import torch

from sslkern.data import LabelledImages
from sslkern.methods import SeLa
from sslkern.train.clusters import features_of, indexed_view
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(samples: LabelledImages, clusters: int, heads: int, sharpness: float) -> SeLa:
    encoder = image_encoder(samples)
    return SeLa(
        encoder,
        encoder.feature_dim,
        len(samples),
        clusters=clusters,
        heads=heads,
        sharpness=sharpness,
    )


def cluster(model: SeLa, samples: LabelledImages, generator: torch.Generator) -> None:
    model.cluster(features_of(model, samples))


RECIPE = image_recipe(
    "SeLa",
    build,
    batch=indexed_view,
    begin_epoch=cluster,
    options={"clusters": 60, "heads": 4, "sharpness": 25.0},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=12,
)
