"""MoCo v3 on images."""

from sslkern.data import LabelledImages
from sslkern.methods import MoCoV3
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    hidden_dim: int,
    projection_dim: int,
    projector_layers: int,
    momentum: float,
) -> MoCoV3:
    encoder = image_encoder(samples)
    return MoCoV3(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        projector_layers=projector_layers,
        temperature=temperature,
        momentum=momentum,
    )


# The momentum is for 14 steps an epoch, as in the recipes of the other versions.
RECIPE = image_recipe(
    "MoCo v3",
    build,
    options={
        "temperature": 0.3,
        "hidden_dim": 256,
        "projection_dim": 64,
        "projector_layers": 2,
        "momentum": 0.95,
    },
    evidence=Evidence("linear", 0.025),
    batch_size=64,
    quick=14,
)
