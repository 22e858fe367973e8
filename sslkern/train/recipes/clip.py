"""CLIP on digits and what they are called."""

from sslkern.data import Pairs
from sslkern.methods import CLIP
from sslkern.train.captions import caption_recipe, encoders
from sslkern.train.recipe import Evidence


def build(samples: Pairs, projection_dim: int, temperature: float) -> CLIP:
    return CLIP(*encoders(samples), projection_dim=projection_dim, temperature=temperature)


RECIPE = caption_recipe(
    "CLIP",
    build,
    options={"projection_dim": 32, "temperature": 0.07},
    evidence=Evidence("zero_shot", 0.5),
)
