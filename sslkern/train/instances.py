"""What recipes with a row of memory for each image share."""

from __future__ import annotations

from torch import nn

from sslkern.train.encoder import ConvEncoder
from sslkern.train.tiles import AnySizeEncoder


def centered(encoder: ConvEncoder | AnySizeEncoder) -> nn.Sequential:
    """The encoder with its features centered and scaled.

    Untrained features behind a ReLU point about the same way for all images. A memory that has been
    filled with these is a cloud of rows that noise-contrastive estimation drives around as a whole
    instead of apart.
    """
    return nn.Sequential(encoder, nn.BatchNorm1d(encoder.feature_dim, affine=False))
