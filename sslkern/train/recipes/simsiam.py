"""SimSiam on images."""

from sslkern.data import LabelledImages
from sslkern.methods import SimSiam
from sslkern.train.encoder import image_encoder
from sslkern.train.recipe import Evidence
from sslkern.train.siamese import siamese_recipe


def build(samples: LabelledImages, projection_dim: int, hidden_dim: int) -> SimSiam:
    encoder = image_encoder(samples)
    return SimSiam(
        encoder, encoder.feature_dim, projection_dim=projection_dim, hidden_dim=hidden_dim
    )


RECIPE = siamese_recipe(
    "SimSiam",
    build,
    target=lambda model, view: model.project(view),
    options={"projection_dim": 256, "hidden_dim": 64},
    evidence=Evidence("separation", 0.7),
    batch_size=64,
    quick=12,
)
