"""DINO on images."""

from sslkern.data import LabelledImages
from sslkern.methods import DINO
from sslkern.train.crops import CROPPED, crops
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: LabelledImages,
    student_temperature: float,
    teacher_temperature: float,
    momentum: float,
    out_dim: int,
    hidden_dim: int,
    bottleneck_dim: int,
) -> DINO:
    encoder = image_encoder(samples)
    return DINO(
        encoder,
        encoder.feature_dim,
        out_dim=out_dim,
        hidden_dim=hidden_dim,
        bottleneck_dim=bottleneck_dim,
        head_norm="batch",
        freeze_iterations=1,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        momentum=momentum,
    )


RECIPE = image_recipe(
    "DINO",
    build,
    data=CROPPED,
    batch=crops(),
    options={
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "momentum": 0.97,
        "out_dim": 256,
        "hidden_dim": 256,
        "bottleneck_dim": 64,
    },
    evidence=Evidence("linear", 0.03),
    batch_size=64,
    quick=15,
)
