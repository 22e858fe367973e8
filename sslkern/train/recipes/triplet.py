"""Triplets of images."""

from sslkern.data import LabelledImages
from sslkern.methods import Triplet
from sslkern.methods.triplet import Mining
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, projection_dim: int, hidden_dim: int, margin: float, mining: Mining
) -> Triplet:
    encoder = image_encoder(samples)
    return Triplet(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        hidden_dim=hidden_dim,
        margin=margin,
        mining=mining,
    )


RECIPE = image_recipe(
    "Triplet",
    build,
    options={"projection_dim": 64, "hidden_dim": 256, "margin": 1.0, "mining": "random"},
    evidence=Evidence("linear", 0.02),
    quick=12,
)
