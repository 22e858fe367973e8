"""Patch localization on images; digits are enlarged for nine patches to fit."""

from sslkern.data import LabelledImages
from sslkern.methods import PatchLocalization
from sslkern.train.encoder import ConvEncoder
from sslkern.train.pretext import PooledMaps, pretext_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages, patch_size: int, gap: int, jitter: int, drop_colors: bool
) -> PatchLocalization:
    encoder = ConvEncoder((samples.images.shape[1], patch_size, patch_size))
    return PatchLocalization(
        encoder,
        encoder.feature_dim,
        patch_size=patch_size,
        gap=gap,
        jitter=jitter,
        drop_colors=drop_colors,
    )


RECIPE = pretext_recipe(
    "Patch localization",
    build,
    answers=8,
    evidence=Evidence("knn", 0.06),
    features=PooledMaps,
    least_side=16,
    options={"patch_size": 4, "gap": 1, "jitter": 1, "drop_colors": False},
    embed=None,
    quick=20,
)
