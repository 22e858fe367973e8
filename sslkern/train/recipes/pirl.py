"""PIRL on images, with tiles that are quarters."""

from sslkern.data import LabelledImages
from sslkern.methods import PIRL
from sslkern.train.images import image_recipe, indexed_views
from sslkern.train.instances import centered
from sslkern.train.recipe import Evidence
from sslkern.train.tiles import GRID, TILED, AnySizeEncoder, cell_side


def build(
    samples: LabelledImages,
    temperature: float,
    projection_dim: int,
    negatives: int,
    momentum: float,
    jigsaw_weight: float,
) -> PIRL:
    encoder = AnySizeEncoder(samples)
    return PIRL(
        centered(encoder),
        encoder.feature_dim,
        len(samples),
        projection_dim=projection_dim,
        negatives=negatives,
        temperature=temperature,
        momentum=momentum,
        jigsaw_weight=jigsaw_weight,
        grid=GRID,
        tile_size=cell_side(samples),
    )


RECIPE = image_recipe(
    "PIRL",
    build,
    data=TILED,
    batch=indexed_views,
    options={
        "temperature": 0.2,
        "projection_dim": 64,
        "negatives": 64,
        "momentum": 0.5,
        "jigsaw_weight": 0.5,
    },
    evidence=Evidence("linear", 0.025),
    batch_size=64,
    quick=15,
)
