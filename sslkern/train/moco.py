"""What the recipes of MoCo's versions with a queue share."""

from __future__ import annotations

from typing import Any, Literal

from sslkern.data import LabelledImages
from sslkern.methods import MoCo
from sslkern.train.encoder import image_encoder
from sslkern.train.images import image_recipe
from sslkern.train.recipe import Recipe


def moco_recipe(version: Literal[1, 2], temperature: float, **settings: Any) -> Recipe:
    """A recipe of one of the versions.

    Args:
        version: 1 or 2.
        temperature: Default of the option.
        settings: Other fields of `Recipe`.
    """

    def build(
        samples: LabelledImages,
        temperature: float,
        projection_dim: int,
        queue_size: int,
        momentum: float,
        key_parts: int,
    ) -> MoCo:
        encoder = image_encoder(samples)
        return MoCo(
            encoder,
            encoder.feature_dim,
            version=version,
            projection_dim=projection_dim,
            queue_size=queue_size,
            temperature=temperature,
            momentum=momentum,
            key_parts=key_parts,
        )

    # The queue and the momentum are for 7 steps an epoch: the paper's 0.999 averages 1000 steps.
    options = {
        "temperature": temperature,
        "projection_dim": 64,
        "queue_size": 1024,
        "momentum": 0.99,
        "key_parts": 4,
    }
    return image_recipe(f"MoCo v{version}", build, options=options, **settings)
