"""DCL on images."""

from sslkern.data import LabelledImages
from sslkern.methods import DCL
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    weighted: bool,
    sigma: float,
) -> DCL:
    encoder = image_encoder(samples)
    return DCL(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        temperature=temperature,
        weighted=weighted,
        sigma=sigma,
    )


RECIPE = image_recipe(
    "DCL",
    build,
    options={"temperature": 0.2, "projection_dim": 64, "weighted": False, "sigma": 0.5},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
)
