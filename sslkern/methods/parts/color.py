"""Colors: lightness and the two axes of hue, in which distances are about as far as they look."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.ops._common import refuse

# Red, green and blue of sRGB -> X, Y, Z, each relative to that of the white D65.
_WHITE = (0.95047, 1.0, 1.08883)
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_LINEAR_BELOW = 0.04045
_BEND = 6 / 29


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE L*a*b* of sRGB images, for the white D65.

    Args:
        images: (..., 3, H, W) floating, from 0 to 1.

    Returns:
        (..., 3, H, W): L from 0 to 100, a and b from about -110 to 110, 0 where there is no color.

    Raises:
        ValueError: If there are not three channels.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.color import rgb_to_lab
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
        >>> [round(value) for value in rgb_to_lab(red).flatten().tolist()]
        [53, 80, 67]

    Source: CIE 15; IEC 61966-2-1 for sRGB.
    """
    if images.dim() < 3 or images.shape[-3] != 3:
        refuse("rgb_to_lab", "images", "of shape (..., 3, H, W)", tuple(images.shape))
    light = torch.where(
        images <= _LINEAR_BELOW, images / 12.92, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4
    )
    weights = images.new_tensor(_TO_XYZ) / images.new_tensor(_WHITE)[:, None]
    xyz = (weights @ light.flatten(-2)).reshape(images.shape)
    straight = xyz / (3 * _BEND**2) + 4 / 29
    x, y, z = torch.where(xyz > _BEND**3, xyz.clamp(min=_BEND**3) ** (1 / 3), straight).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def split_lab(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Lightness (..., 1, H, W) from 0 to 1, and a and b (..., 2, H, W) divided by 100."""
    lab = rgb_to_lab(frames) / 100
    return lab[..., :1, :, :], lab[..., 1:, :, :]
