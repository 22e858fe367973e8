"""SimSiam on images."""

from sslkern.data import LabelledImages
from sslkern.methods import SimSiam
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(samples: LabelledImages, projection_dim: int, hidden_dim: int) -> SimSiam:
    encoder = image_encoder(samples)
    return SimSiam(
        encoder, encoder.feature_dim, projection_dim=projection_dim, hidden_dim=hidden_dim
    )


RECIPE = image_recipe(
    "SimSiam",
    build,
    options={"projection_dim": 256, "hidden_dim": 64},
    evidence=Evidence("linear", 0.02),
    batch_size=64,
    quick=12,
)
