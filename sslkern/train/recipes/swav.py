"""SwAV on images."""

from sslkern.data import LabelledImages
from sslkern.methods import SwAV
from sslkern.train.crops import CROPPED, crops
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    temperature: float,
    epsilon: float,
    projection_dim: int,
    prototypes: int,
    queue_size: int,
) -> SwAV:
    encoder = image_encoder(samples)
    return SwAV(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        prototypes=prototypes,
        temperature=temperature,
        epsilon=epsilon,
        queue_size=queue_size,
        freeze_iterations=1,
    )


RECIPE = image_recipe(
    "SwAV",
    build,
    data=CROPPED,
    batch=crops(),
    options={
        "temperature": 0.1,
        "epsilon": 0.03,
        "projection_dim": 64,
        "prototypes": 60,
        "queue_size": 0,
    },
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=15,
)
