"""VICReg on images."""

from sslkern.data import LabelledImages
from sslkern.methods import VICReg
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    projection_dim: int,
    hidden_dim: int,
    lambda_param: float,
    mu_param: float,
    nu_param: float,
) -> VICReg:
    encoder = image_encoder(samples)
    return VICReg(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        hidden_dim=hidden_dim,
        lambda_param=lambda_param,
        mu_param=mu_param,
        nu_param=nu_param,
    )


RECIPE = image_recipe(
    "VICReg",
    build,
    options={
        "projection_dim": 512,
        "hidden_dim": 256,
        "lambda_param": 25.0,
        "mu_param": 25.0,
        "nu_param": 1.0,
    },
    evidence=Evidence("linear", 0.03),
    quick=12,
)
