"""PCL on images."""

import torch

from sslkern.data import LabelledImages
from sslkern.methods import PCL
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe, indexed_views
from sslkern.train.recipe import Evidence

CHUNK = 256


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
    clusters: int,
) -> PCL:
    encoder = image_encoder(samples)
    return PCL(
        encoder,
        encoder.feature_dim,
        len(samples),
        clusters=(clusters, 2 * clusters),
        projection_dim=projection_dim,
        queue_size=queue_size,
        temperature=temperature,
        momentum=momentum,
    )


def cluster(method: PCL, samples: LabelledImages, generator: torch.Generator) -> None:
    chunks = torch.split(samples.images, CHUNK)
    method.cluster(torch.cat([method.embed(chunk) for chunk in chunks]), generator)


RECIPE = image_recipe(
    "PCL",
    build,
    batch=indexed_views,
    begin_epoch=cluster,
    options={
        "temperature": 0.2,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
        "clusters": 20,
    },
    evidence=Evidence("linear", 0.02),
)
