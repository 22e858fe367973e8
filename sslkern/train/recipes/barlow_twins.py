"""Barlow Twins on images."""

from sslkern.data import LabelledImages
from sslkern.methods import BarlowTwins
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, projection_dim: int, hidden_dim: int, lambda_param: float
) -> BarlowTwins:
    encoder = image_encoder(samples)
    return BarlowTwins(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        hidden_dim=hidden_dim,
        lambda_param=lambda_param,
    )


RECIPE = image_recipe(
    "Barlow Twins",
    build,
    options={"projection_dim": 512, "hidden_dim": 256, "lambda_param": 0.0051},
    evidence=Evidence("linear", 0.02),
    quick=15,
)
