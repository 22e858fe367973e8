"""What the tests of methods of correspondence in video share."""

from __future__ import annotations

import torch
from steps import Batch
from torch import nn


def small_map_encoder(map_dim: int = 6, channels: int = 3) -> nn.Sequential:
    """Frames (B, C, H, W) -> maps (B, map_dim, H / 2, W / 2), in float64, each frame by itself."""
    layers = [nn.Conv2d(channels, map_dim, 3, stride=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(map_dim, map_dim, 1)).double()


def clip_batches(
    clips: int = 2, frames: int = 3, size: int = 6, channels: int = 3, steps: int = 3
) -> list[Batch]:
    """Frames (clips, frames, channels, size, size), float64, for each of the steps."""
    generator = torch.Generator().manual_seed(1)
    shape = (clips, frames, channels, size, size)
    return [(torch.rand(shape, dtype=torch.float64, generator=generator),) for _ in range(steps)]
