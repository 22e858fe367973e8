"""BYOL on images."""

from sslkern.data import LabelledImages
from sslkern.methods import BYOL
from sslkern.train.encoder import image_encoder
from sslkern.train.recipe import Evidence
from sslkern.train.siamese import siamese_recipe


def build(samples: LabelledImages, hidden_dim: int, projection_dim: int, momentum: float) -> BYOL:
    encoder = image_encoder(samples)
    return BYOL(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        momentum=momentum,
    )


# The momentum is for 14 steps an epoch: the paper's 0.996 is for a million steps.
RECIPE = siamese_recipe(
    "BYOL",
    build,
    target=lambda model, view: model.teacher(view),
    options={"hidden_dim": 256, "projection_dim": 64, "momentum": 0.97},
    evidence=Evidence("separation", 0.4),
    batch_size=64,
    quick=10,
)
