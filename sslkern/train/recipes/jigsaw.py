"""Jigsaw on images; digits are enlarged for the tiles to have room."""

from sslkern.data import LabelledImages
from sslkern.methods import Jigsaw
from sslkern.train.encoder import ConvEncoder
from sslkern.train.pretext import PooledMaps, pretext_recipe
from sslkern.train.recipe import Evidence

PERMUTATIONS = 30


def build(samples: LabelledImages, tile_size: int, permutations: int) -> Jigsaw:
    encoder = ConvEncoder((samples.images.shape[1], tile_size, tile_size))
    return Jigsaw(
        encoder,
        encoder.feature_dim,
        tile_size=tile_size,
        permutations=permutations,
    )


RECIPE = pretext_recipe(
    "Jigsaw",
    build,
    answers=PERMUTATIONS,
    evidence=Evidence("task", 0.5),
    features=PooledMaps,
    least_side=16,
    options={"tile_size": 4, "permutations": PERMUTATIONS},
    embed=None,
    quick=12,
)
