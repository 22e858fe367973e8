"""Colours as lightness and two axes of hue, in which distances are about those that one sees."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows X, Y, Z of linear sRGB under the light D65.
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_KNEE = 6 / 29
"""Below its cube the cube root of CIELAB is a line."""


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIELAB of sRGB images.

    Args:
        images: (..., 3, H, W) in [0, 1].

    Returns:
        Of the same shape: L from 0 to 100, a from about -86 to 98, b from about -108 to 94.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.colors import rgb_to_lab
        >>> red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(3, 1, 1)
        >>> [round(value, 1) for value in rgb_to_lab(red).flatten().tolist()]
        [53.2, 80.1, 67.2]

    Source: CIE 15:2004; IEC 61966-2-1 for sRGB
    """
    linear = torch.where(
        images > 0.04045, ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92
    )
    xyz = torch.einsum("ij,...jhw->...ihw", _matrix(images), linear)
    root = torch.where(
        xyz > _KNEE**3, xyz.clamp_min(_KNEE**3) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29
    )
    x, y, z = root.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`, cut to [0, 1]."""
    light, a, b = lab.unbind(-3)
    y = (light + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], -3)
    xyz = torch.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
    linear = torch.einsum("ij,...jhw->...ihw", _matrix(lab).inverse(), xyz).clamp(0, 1)
    bright = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear)


def _matrix(like: Tensor) -> Tensor:
    rows = torch.tensor(_XYZ, dtype=torch.float64)
    return (rows / rows.sum(1, keepdim=True)).to(like)
