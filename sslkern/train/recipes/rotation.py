"""Rotation on images."""

from sslkern.data import LabelledImages
from sslkern.methods import Rotation
from sslkern.train.encoder import image_encoder
from sslkern.train.pretext import pretext_recipe
from sslkern.train.recipe import Evidence


def build(samples: LabelledImages) -> Rotation:
    encoder = image_encoder(samples)
    return Rotation(encoder, encoder.feature_dim)


RECIPE = pretext_recipe("Rotation", build, answers=4, evidence=Evidence("task", 0.3))
