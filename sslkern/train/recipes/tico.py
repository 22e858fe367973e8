"""TiCo on images."""

from sslkern.data import LabelledImages
from sslkern.methods import TiCo
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    hidden_dim: int,
    projection_dim: int,
    beta: float,
    rho: float,
    momentum: float,
) -> TiCo:
    encoder = image_encoder(samples)
    return TiCo(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        beta=beta,
        rho=rho,
        momentum=momentum,
    )


# The loss rises with the covariance, which starts at zero, before it falls.
RECIPE = image_recipe(
    "TiCo",
    build,
    options={"hidden_dim": 256, "projection_dim": 64, "beta": 0.9, "rho": 8.0, "momentum": 0.97},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=13,
)
