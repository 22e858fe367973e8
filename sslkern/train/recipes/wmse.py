"""W-MSE on images."""

from sslkern.data import LabelledImages
from sslkern.methods import WMSE
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, hidden_dim: int, projection_dim: int, w_size: int, w_iter: int
) -> WMSE:
    encoder = image_encoder(samples)
    return WMSE(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        w_size=w_size,
        w_iter=w_iter,
    )


RECIPE = image_recipe(
    "W-MSE",
    build,
    options={"hidden_dim": 256, "projection_dim": 16, "w_size": 64, "w_iter": 1},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=14,
)
