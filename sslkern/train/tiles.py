"""What recipes share whose encoder sees whole images and tiles of them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.data import LabelledImages
from sslkern.train.encoder import SMALLEST_MAP, ConvEncoder, image_encoder

TILED = ("digits", "photos")
"""Data sets of images, which can be cut."""
GRID: Literal[2] = 2


class AnySizeEncoder(nn.Module):
    """The encoder of a data set for images of any size: its maps, pooled to 2 x 2.

    Args:
        samples: The data set.
    """

    def __init__(self, samples: LabelledImages) -> None:
        super().__init__()
        self.encoder: ConvEncoder = image_encoder(samples)
        self.feature_dim = self.encoder.map_dim * SMALLEST_MAP**2

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, feature_dim)."""
        return F.adaptive_avg_pool2d(self.encoder.maps(images), SMALLEST_MAP).flatten(1)


def cell_side(samples: LabelledImages) -> int:
    """Side of a cell: tiles as large have no gaps between them."""
    return min(samples.images.shape[2:]) // GRID
