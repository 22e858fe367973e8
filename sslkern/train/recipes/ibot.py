"""iBOT on images, with a small transformer."""

from sslkern.data import LabelledImages
from sslkern.methods import IBOT
from sslkern.train.images import two_views
from sslkern.train.recipe import Evidence
from sslkern.train.tokens import TokenEncoder, image_shape, patch_size, token_recipe


def build(
    samples: LabelledImages,
    out_dim: int,
    teacher_temperature: float,
    momentum: float,
    mask_probability: float,
    patch_weight: float,
) -> IBOT:
    return IBOT(
        TokenEncoder(64),
        image_shape(samples),
        64,
        patch_size=patch_size(samples),
        out_dim=out_dim,
        hidden_dim=128,
        bottleneck_dim=64,
        head_norm="batch",
        freeze_iterations=1,
        teacher_temperature=teacher_temperature,
        patch_temperature=teacher_temperature,
        momentum=momentum,
        mask_probability=mask_probability,
        patch_weight=patch_weight,
    )


RECIPE = token_recipe(
    "iBOT",
    build,
    batch=two_views,
    options={
        "out_dim": 64,
        "teacher_temperature": 0.04,
        "momentum": 0.97,
        "mask_probability": 0.5,
        "patch_weight": 1.0,
    },
    evidence=Evidence("knn", 0.12),
    batch_size=64,
    quick=14,
)
