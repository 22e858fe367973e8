"""MoCo v2 on images."""

from sslkern.data import LabelledImages
from sslkern.methods import MoCo
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    queue_size: int,
    momentum: float,
    key_parts: int,
) -> MoCo:
    encoder = image_encoder(samples)
    return MoCo(
        encoder,
        encoder.feature_dim,
        version=2,
        projection_dim=projection_dim,
        queue_size=queue_size,
        temperature=temperature,
        momentum=momentum,
        key_parts=key_parts,
    )


# The queue and the momentum are for 14 steps an epoch: the paper's 0.999 averages 1000 steps.
RECIPE = image_recipe(
    "MoCo v2",
    build,
    options={
        "temperature": 0.2,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
        "key_parts": 4,
    },
    evidence=Evidence("linear", 0.03),
    quick=20,
)
