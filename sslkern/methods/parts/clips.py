"""Clips: what methods of correspondence in video do with the frames of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.parts.colors import rgb_to_lab
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.ops._common import refuse


def check_clips(frames: Tensor, op: str, *, least: int = 2) -> None:
    """Reject what is no batch of clips (B, T, ...), and clips of too few frames.

    Raises:
        ValueError: If there is no clip, or there are fewer than ``least`` frames.
    """
    if frames.dim() < 3 or frames.shape[0] == 0 or frames.shape[1] < least:
        requirement = f"(B, T, ...) with at least 1 clip of at least {least} frames"
        refuse(op, "frames", requirement, tuple(frames.shape))


def encode_clips(encoder: nn.Module, frames: Tensor, map_dim: int, op: str) -> Tensor:
    """Cells (B, T, S, map_dim) of the frames (B, T, ...), all of which are encoded as one batch.

    Raises:
        ValueError: If the encoder does not return maps (B T, map_dim, ...) of S cells.
    """
    rows = cells(encode_maps(encoder, frames.flatten(0, 1), map_dim, op))
    return rows.reshape(*frames.shape[:2], *rows.shape[1:])


def split_lab(frames: Tensor, op: str) -> tuple[Tensor, Tensor]:
    """Lightness and color, in CIELAB, of sRGB frames (..., 3, H, W) in [0, 1].

    Returns:
        L / 100, (..., 1, H, W) from 0 to 1, and a / 100 and b / 100, (..., 2, H, W).

    Raises:
        ValueError: If there are not three channels.
    """
    if frames.dim() < 3 or frames.shape[-3] != 3:
        refuse(op, "frames", "of shape (..., 3, H, W)", tuple(frames.shape))
    lab = rgb_to_lab(frames) / 100
    return lab[..., :1, :, :], lab[..., 1:, :, :]


def centers(height: int, width: int) -> Tensor:
    """Places x, y (height width, 2) of the cells of a map, in float64; the map is [-1, 1]."""
    sides = (torch.arange(side, dtype=torch.float64) for side in (height, width))
    y, x = ((2 * cell + 1) / len(cell) - 1 for cell in sides)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)


def draw_squares(maps: Tensor, size: int) -> Tensor:
    """Centers x, y (B, 2), in [-1, 1], of random squares of whole cells of maps (B, C, h, w)."""
    shifts = []
    for side in maps.shape[:1:-1]:
        corner = torch.randint(side - size + 1, (len(maps),), device=maps.device)
        shifts.append((2 * corner + size - side).to(maps.dtype) / side)
    return torch.stack(shifts, 1)
