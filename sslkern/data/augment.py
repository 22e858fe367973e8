"""Random views of small images and signals, drawn from an explicit generator.

Every random number comes from the `torch.Generator` that the caller passes in, so the state of that
generator decides the views: save it, and an interrupted run goes on with the same views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AffineNoiseViews:
    """Random affine map and pixel noise, each image its own, the whole batch in one call.

    There is no flip and no rotation beyond `rotation`: both turn one digit into another.

    Attributes:
        rotation: Largest angle in degrees; the angle is uniform in [-rotation, rotation].
        scale: Largest zoom as a ratio >= 1; the logarithm of the zoom is uniform, so that shrinking
            to 1 / scale is as likely as growing to scale. Height and width are drawn apart, which
            makes a digit slender or broad.
        shear: Largest horizontal shear; uniform in [-shear, shear], in widths per height (slant).
        shift: Largest shift in pixels along each axis; uniform in [-shift, shift], not rounded.
        contrast: Largest relative change of the ink; the factor is uniform in
            [1 - contrast, 1 + contrast].
        noise: Standard deviation of the Gaussian noise per pixel, where white is 1.

    Example:
        >>> import torch
        >>> views = AffineNoiseViews()
        >>> images = torch.rand(16, 1, 8, 8)
        >>> views(images, torch.Generator().manual_seed(0)).shape
        torch.Size([16, 1, 8, 8])
    """

    rotation: float = 20.0
    scale: float = 1.25
    shear: float = 0.25
    shift: float = 1.0
    contrast: float = 0.2
    noise: float = 0.1

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view of every image.

        Args:
            images: (B, C, H, W), float32 or float64, values in [0, 1].
            generator: Source of every random number; it advances by the same amount on each call
                with the same shape.

        Returns:
            (B, C, H, W) of the same dtype, values in [0, 1]; what is drawn from outside the image
            is 0, the background of the digits.
        """
        theta = self._affine_maps(images, generator)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        views = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
        ink = 1 + self.contrast * _uniform((len(images), 1, 1, 1), images.dtype, generator)
        noise = torch.randn(images.shape, dtype=images.dtype, generator=generator)
        return (views * ink + self.noise * noise).clamp_(0, 1)

    def _affine_maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw maps (B, 2, 3) from output to input coordinates, both in [-1, 1]."""
        batch, _, height, width = images.shape
        draw = _uniform((6, batch), images.dtype, generator)
        angle = draw[0] * math.radians(self.rotation)
        zoom_x, zoom_y = torch.exp(-math.log(self.scale) * draw[1:3])
        slant = self.shear * draw[3]
        cos, sin = angle.cos(), angle.sin()
        # Rows of rotation @ [[zoom_x, slant], [0, zoom_y]], in pixels. In [-1, 1] a pixel is
        # 2 / size wide, so what leads from one axis to the other is scaled by the sizes' ratio.
        aspect = height / width
        x_from_y = (cos * slant - sin * zoom_y) * aspect
        y_from_x = sin * zoom_x / aspect
        row_x = (cos * zoom_x, x_from_y, draw[4] * (2 * self.shift / width))
        row_y = (y_from_x, sin * slant + cos * zoom_y, draw[5] * (2 * self.shift / height))
        return torch.stack([torch.stack(row_x, 1), torch.stack(row_y, 1)], 1)


def _uniform(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw from [-1, 1)."""
    return torch.rand(shape, dtype=dtype, generator=generator) * 2 - 1


@dataclass(frozen=True)
class CropColorViews:
    """Random crop, flip and colour of photographs, each image its own.

    Attributes:
        area: Smallest share of the image's area that a crop shows; uniform in [area, 1].
        brightness: Largest relative change of all channels together.
        color: Largest relative change of each channel by itself.
        gray: How likely the view has no colour.
        noise: Standard deviation of the Gaussian noise per pixel and channel.

    Source: the transforms of Chen et al., 2020, https://arxiv.org/abs/2002.05709, without blur.
    """

    area: float = 0.3
    brightness: float = 0.4
    color: float = 0.2
    gray: float = 0.2
    noise: float = 0.02

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view (B, 3, H, W) of every image (B, 3, H, W), values in [0, 1]."""
        grid = F.affine_grid(self._crops(images, generator), list(images.shape), False)
        views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        batch, channels = views.shape[:2]
        light = 1 + self.brightness * _uniform((batch, 1, 1, 1), images.dtype, generator)
        tint = 1 + self.color * _uniform((batch, channels, 1, 1), images.dtype, generator)
        gray = torch.rand(batch, 1, 1, 1, generator=generator) < self.gray
        views = torch.where(gray, views.mean(1, keepdim=True), views) * light * tint
        noise = torch.randn(images.shape, dtype=images.dtype, generator=generator)
        return (views + self.noise * noise).clamp_(0, 1)

    def _crops(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand((4, len(images)), dtype=images.dtype, generator=generator)
        side = (self.area + (1 - self.area) * draw[0]).sqrt()
        flip = torch.where(draw[1] < 0.5, -1.0, 1.0).to(images)
        x, y = (1 - side) * (2 * draw[2:] - 1)
        zero = torch.zeros_like(side)
        return torch.stack(
            [torch.stack([flip * side, zero, x], 1), torch.stack([zero, side, y], 1)], 1
        )


@dataclass(frozen=True)
class SignalViews:
    """Random circular shift, scale and noise of signals.

    Attributes:
        shift: Largest shift as a share of the length.
        scale: Largest relative change of the amplitude.
        noise: Standard deviation of the Gaussian noise, relative to the signal's own.
    """

    shift: float = 0.25
    scale: float = 0.2
    noise: float = 0.1

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view (B, C, L) of every signal (B, C, L); what leaves comes back."""
        batch, _, length = signals.shape
        most = int(self.shift * length)
        shift = torch.randint(-most, most + 1, (batch, 1, 1), generator=generator)
        place = (torch.arange(length) - shift) % length
        moved = signals.gather(2, place.expand_as(signals))
        size = 1 + self.scale * _uniform((batch, 1, 1), signals.dtype, generator)
        noise = torch.randn(signals.shape, dtype=signals.dtype, generator=generator)
        return moved * size + self.noise * signals.std() * noise


_DIGITS, _PHOTOS, _SIGNALS = AffineNoiseViews(), CropColorViews(), SignalViews()


def random_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One random view of every image, as suits them.

    Args:
        images: (B, 1, H, W) strokes on black, (B, 3, H, W) photographs, or (B, C, L) signals.
        generator: Source of every random number.

    Returns:
        Of the same shape and dtype.
    """
    if images.dim() == 3:
        return _SIGNALS(images, generator)
    return (_PHOTOS if images.shape[1] == 3 else _DIGITS)(images, generator)
