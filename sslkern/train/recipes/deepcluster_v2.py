"""DeepCluster v2 on images."""

import torch

from sslkern.data import LabelledImages
from sslkern.methods import DeepClusterV2
from sslkern.methods.parts.assignments import NONE
from sslkern.train.crops import CROPPED, indexed_crops
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence

BATCH = indexed_crops()


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    clusterings: int,
    prototypes: int,
) -> DeepClusterV2:
    encoder = image_encoder(samples)
    return DeepClusterV2(
        encoder,
        encoder.feature_dim,
        len(samples),
        projection_dim=projection_dim,
        clusterings=clusterings,
        prototypes=min(prototypes, len(samples)),
        temperature=temperature,
    )


def cluster(model: DeepClusterV2, samples: LabelledImages, generator: torch.Generator) -> None:
    if bool((model.labels == NONE).any()):
        model.remember(*BATCH(samples, torch.arange(len(samples)), generator))
    model.cluster(generator)


RECIPE = image_recipe(
    "DeepCluster v2",
    build,
    data=CROPPED,
    batch=BATCH,
    begin_epoch=cluster,
    options={"temperature": 0.1, "projection_dim": 64, "clusterings": 3, "prototypes": 60},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=12,
)
