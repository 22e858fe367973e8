"""NNCLR on images."""

from sslkern.data import LabelledImages
from sslkern.methods import NNCLR
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    hidden_dim: int,
    projection_dim: int,
    queue_size: int,
) -> NNCLR:
    encoder = image_encoder(samples)
    return NNCLR(
        encoder,
        encoder.feature_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        predictor_dim=hidden_dim,
        queue_size=queue_size,
        temperature=temperature,
    )


# An epoch has fewer images than the queue has places: neighbors are other images, or earlier views.
RECIPE = image_recipe(
    "NNCLR",
    build,
    options={"temperature": 0.2, "hidden_dim": 256, "projection_dim": 64, "queue_size": 1024},
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=12,
)
