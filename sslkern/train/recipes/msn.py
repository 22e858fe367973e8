"""MSN on images, with a small transformer."""

from sslkern.data import LabelledImages
from sslkern.methods import MSN
from sslkern.train.images import two_views
from sslkern.train.recipe import Evidence
from sslkern.train.tokens import TokenEncoder, image_shape, patch_size, token_recipe


def build(
    samples: LabelledImages,
    mask_ratio: float,
    prototypes: int,
    temperature: float,
    sharpening: float,
    entropy_weight: float,
    iterations: int,
    momentum: float,
) -> MSN:
    return MSN(
        TokenEncoder(64),
        image_shape(samples),
        64,
        patch_size=patch_size(samples),
        mask_ratio=mask_ratio,
        hidden_dim=128,
        projection_dim=64,
        prototypes=prototypes,
        temperature=temperature,
        sharpening=sharpening,
        entropy_weight=entropy_weight,
        iterations=iterations,
        momentum=momentum,
    )


RECIPE = token_recipe(
    "MSN",
    build,
    batch=two_views,
    options={
        "mask_ratio": 0.25,
        "prototypes": 32,
        "temperature": 0.2,
        "sharpening": 0.25,
        "entropy_weight": 1.0,
        "iterations": 3,
        "momentum": 0.97,
    },
    evidence=Evidence("knn", 0.08),
    batch_size=64,
    quick=20,
    lr=3e-3,
)
