"""Clips of moving digits, whose motion and outlines are known to the pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkern.data.digits import load_digits
from sslkern.data.samples import Samples

_INK = 0.3  # a pixel with less is not of the digit
_FASTEST = 2


@dataclass(frozen=True)
class Video(Samples):
    """Clips of K digits that move and bounce.

    Attributes:
        frames: (N, T, 3, H, W) floating, in [0, 1].
        positions: (N, T, K, 2) floating, row and column of the centre of each digit's 8 x 8 square;
            that of a pixel is its index. Whole pixels and a half.
        masks: (N, T, H, W) int64, what a pixel shows: 0 the background, k + 1 digit k. Digit k + 1
            is in front of digit k and may hide it.
        labels: (N, K) int64, which digits.
    """

    frames: Tensor
    positions: Tensor
    masks: Tensor
    labels: Tensor


def load_video(
    clips: int = 512, frames: int = 6, size: int = 32, digits: int = 2, seed: int = 0
) -> Video:
    """Let digits of different colours fly over a background that stays as it is.

    Each moves by a whole number of pixels per frame, at most 2 along each axis and not 0 along
    both, and bounces off the border. The background is faint noise, each clip its own; where there
    is no digit a frame is exactly the background, where there is one it is that digit's colour.

    Args:
        clips: N.
        frames: T.
        size: H = W, more than 9.
        digits: K.
        seed: Decides everything.

    Returns:
        frames and positions float32.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> video = load_video(clips=4)
        >>> video.frames.shape, video.positions.shape, video.masks.shape
        (torch.Size([4, 6, 3, 32, 32]), torch.Size([4, 6, 2, 2]), torch.Size([4, 6, 32, 32]))

    Source: the idea is that of moving MNIST, https://arxiv.org/abs/1502.04681.
    """
    generator = torch.Generator().manual_seed(seed)
    source = load_digits()
    which = torch.randint(len(source), (clips, digits), generator=generator)
    ink, colors = source.images[which, 0], _colors(clips, digits, generator)
    corners = _corners((clips, digits), frames, size - ink.shape[-1], generator)
    background = 0.1 + 0.2 * torch.rand(clips, 1, 3, size, size, generator=generator)
    shown = background.repeat(1, frames, 1, 1, 1)
    masks = torch.zeros(clips, frames, size, size, dtype=torch.int64)
    for k in range(digits):
        _draw(k, ink[:, k], colors[:, k], corners[:, :, k], shown, masks)
    positions = corners + (ink.shape[-1] - 1) / 2
    return Video(shown, positions, masks, source.labels[which])


def _colors(clips: int, digits: int, generator: torch.Generator) -> Tensor:
    """Pure hues (N, K, 3), in each clip evenly around the circle from a random one on."""
    hue = torch.rand(clips, 1, 1, generator=generator) + torch.arange(digits)[:, None] / digits
    sector = (6 * hue + torch.tensor([0.0, 4.0, 2.0])) % 6
    return ((sector - 3).abs() - 1).clamp_(0, 1)


def _corners(shape: tuple[int, int], frames: int, most: int, generator: torch.Generator) -> Tensor:
    """Row and column of each digit's first pixel, (N, T, K, 2) int64, from 0 to ``most``."""
    start = torch.randint(most + 1, (*shape, 2), generator=generator)
    # Without the middle one, which is to stay: of the others, as likely each.
    side = 2 * _FASTEST + 1
    step = torch.randint(side * side - 1, shape, generator=generator)
    step += step >= side * side // 2
    velocity = torch.stack([step // side, step % side], -1) - _FASTEST
    path = start[:, None] + velocity[:, None] * torch.arange(frames)[:, None, None]
    # A border is a mirror, so the path is a straight line that is folded.
    return most - ((path % (2 * most)) - most).abs()


def _draw(
    k: int, ink: Tensor, color: Tensor, corner: Tensor, frames: Tensor, masks: Tensor
) -> None:
    """Draw digit k, ink (N, 8, 8), into frames and masks, in place, over what is there.

    Args:
        k: Which digit.
        ink: (N, 8, 8).
        color: (N, 3).
        corner: (N, T, 2) int64.
        frames: (N, T, 3, H, W).
        masks: (N, T, H, W).
    """
    clip, row, column = (index[:, None] for index in (ink > _INK).nonzero(as_tuple=True))
    time = torch.arange(corner.shape[1])
    rows, columns = corner[clip, time, 0] + row, corner[clip, time, 1] + column
    shade = (1 + ink[clip, row, column]) / 2
    frames[clip, time, :, rows, columns] = color[clip] * shade[..., None]
    masks[clip, time, rows, columns] = k + 1
