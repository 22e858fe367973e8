"""SigLIP on digits and what they are called."""

from sslkern.data import Pairs
from sslkern.methods import SigLIP
from sslkern.train.captions import caption_recipe, encoders
from sslkern.train.recipe import Evidence


def build(samples: Pairs, projection_dim: int, scale: float, bias: float) -> SigLIP:
    return SigLIP(*encoders(samples), projection_dim=projection_dim, scale=scale, bias=bias)


RECIPE = caption_recipe(
    "SigLIP",
    build,
    options={"projection_dim": 32, "scale": 10.0, "bias": -10.0},
    evidence=Evidence("zero_shot", 0.5),
)
