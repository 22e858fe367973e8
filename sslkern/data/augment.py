"""Random views of small grey-level images, drawn from an explicit generator.

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
