"""SimCLR v2 on images."""

from sslkern.data import LabelledImages
from sslkern.methods import SimCLRv2
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, temperature: float, hidden_layers: int, projection_dim: int
) -> SimCLRv2:
    encoder = image_encoder(samples)
    return SimCLRv2(
        encoder,
        encoder.feature_dim,
        hidden_layers=hidden_layers,
        projection_dim=projection_dim,
        temperature=temperature,
    )


RECIPE = image_recipe(
    "SimCLR v2",
    build,
    options={"temperature": 0.5, "hidden_layers": 2, "projection_dim": 64},
    evidence=Evidence("linear", 0.03),
)
