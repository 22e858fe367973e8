"""DenseCL on images."""

from sslkern.data import LabelledImages
from sslkern.methods import DenseCL
from sslkern.train.dense import dense_recipe, map_encoder
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
    dense_weight: float,
) -> DenseCL:
    encoder = map_encoder(samples)
    return DenseCL(
        encoder,
        encoder.map_dim,
        projection_dim=projection_dim,
        queue_size=queue_size,
        temperature=temperature,
        momentum=momentum,
        dense_weight=dense_weight,
    )


RECIPE = dense_recipe(
    "DenseCL",
    build,
    options={
        "temperature": 0.2,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
        "dense_weight": 0.5,
    },
    evidence=Evidence("linear", 0.03),
    quick=20,
)
