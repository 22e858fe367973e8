"""Video triplets, of patches that move."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.data import Video
from sslkern.methods import VideoTriplet
from sslkern.train.correspondence import (
    STRIDE,
    FrameEncoder,
    correspondence_recipe,
    gray,
    windows,
)
from sslkern.train.recipe import Evidence

SIZE = 12
"""Side of a patch in pixels."""
REACH = 2
"""Pixels that a patch may move along each axis, from a frame to the next."""


class PatchEncoder(nn.Module):
    """Patches (B, 1, SIZE, SIZE) -> all cells of their maps as features (B, feature_dim)."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = FrameEncoder()
        self.feature_dim = self.maps.map_dim * (SIZE // STRIDE) ** 2

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches to features."""
        maps: Tensor = self.maps(patches)
        return maps.flatten(1)


def build(samples: Video, margin: float, negatives: int, hard_from: float) -> VideoTriplet:
    encoder = PatchEncoder()
    return VideoTriplet(
        encoder, encoder.feature_dim, margin=margin, negatives=negatives, hard_from=hard_from
    )


def tracks(samples: Video, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """First and last patch of a track through each clip, found without knowing what moves.

    A patch begins where the first two frames differ, and in each frame is the one in reach that
    has the most similar pixels.
    """
    frames = windows(samples, index, generator)
    motion = (frames[:, 1] - frames[:, 0]).abs().mean(1, keepdim=True)
    motion = nn.functional.avg_pool2d(motion, SIZE, stride=1)
    width = motion.shape[3]
    place = torch.multinomial(motion.flatten(1) ** 4, 1, generator=generator)[:, 0]
    row, column = place // width, place % width
    first, patch = crop(gray(frames[:, 0]), row, column), crop(frames[:, 0], row, column)
    side = torch.arange(-REACH, REACH + 1)
    steps, clip = torch.cartesian_prod(side, side), torch.arange(len(frames))
    for frame in frames[:, 1:].unbind(1):
        rows = (row[:, None] + steps[:, 0]).clamp(0, motion.shape[2] - 1)
        columns = (column[:, None] + steps[:, 1]).clamp(0, width - 1)
        near = [crop(frame, rows[:, i], columns[:, i]) for i in range(len(steps))]
        candidates = torch.stack(near, 1)
        best = (candidates - patch[:, None]).square().sum((2, 3, 4)).argmin(1)
        row, column, patch = rows[clip, best], columns[clip, best], candidates[clip, best]
    return first, crop(gray(frames[:, -1]), row, column)


def crop(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Patches (B, C, SIZE, SIZE) of images (B, C, H, W), by their first pixels."""
    rows, columns = (first[:, None] + torch.arange(SIZE) for first in (row, column))
    image = torch.arange(len(images))[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


RECIPE = correspondence_recipe(
    "Video triplets",
    build,
    batch=tracks,
    options={"margin": 0.5, "negatives": 4, "hard_from": 0.5},
    evidence=Evidence("iou", 0.06),
    batch_size=32,
    epochs=80,
    quick=8,
)
