"""SimCLR on images."""

from sslkern import reference
from sslkern.data import LabelledImages
from sslkern.methods import SimCLR
from sslkern.ops import ntxent_loss
from sslkern.ops._common import refuse
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence

LOSSES = {"fused": ntxent_loss, "reference": reference.ntxent_loss}


def build(samples: LabelledImages, temperature: float, projection_dim: int, loss: str) -> SimCLR:
    if loss not in LOSSES:
        refuse("SimCLR", "loss", " or ".join(LOSSES), loss)
    encoder = image_encoder(samples)
    return SimCLR(
        encoder,
        encoder.feature_dim,
        projection_dim=projection_dim,
        temperature=temperature,
        loss=LOSSES[loss],
    )


RECIPE = image_recipe(
    "SimCLR",
    build,
    options={"temperature": 0.5, "projection_dim": 64, "loss": "fused"},
    evidence=Evidence("linear", 0.03),
)
