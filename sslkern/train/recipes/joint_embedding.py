"""Joint embedding with a hinge on images."""

from sslkern.data import LabelledImages
from sslkern.methods import JointEmbedding
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, projection_dim: int, hidden_dim: int, margin: float
) -> JointEmbedding:
    encoder = image_encoder(samples)
    return JointEmbedding(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        hidden_dim=hidden_dim,
        margin=margin,
    )


RECIPE = image_recipe(
    "Joint embedding",
    build,
    options={"projection_dim": 64, "hidden_dim": 256, "margin": 1.0},
    evidence=Evidence("linear", 0.03),
)
