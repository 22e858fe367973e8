"""Tracking by colors: a gray frame takes its colors from earlier ones, cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.clips import check_clips, split_lab
from sslkern.methods.parts.kmeans import kmeans
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.ops._common import accumulate_dtype, check_positive_number, refuse
from sslkern.ops._embeddings import check_count

_TINY = 1e-12
"""Added to probabilities before the logarithm."""


class ColorTracking(Method):
    r"""Correspondence that emerges from copying colors.

    .. math:: A_{ij} = \operatorname*{softmax}_i \left( \frac{f_i \cdot f_j}{\tau} \right), \quad
              y_j = \sum_i A_{ij}\, c_i, \quad \ell = -\operatorname*{mean}_j \log y_{j, k(j)}

    The encoder sees the lightness of the frames alone. The cells j of the last frame look at the
    cells i of all earlier ones by their features f, as they are, not normalized, and copy from them
    which of the palette's colors they have, c one-hot. Right is the color k(j) that the cell has
    itself. A cell has the nearest color of the palette to the mean a and b, of CIELAB, of its
    pixels.

    As in the paper, which has 16 colors and three earlier frames; its encoder is a residual network
    and 3-D convolutions over the frames.

    Args:
        encoder: Maps lightness (B, 1, H, W), from 0 to 1, to feature maps (B, map_dim, h, w).
        map_dim: Channels of the maps.
        palette: (K, 2), at least two colors, their a and b divided by 100, such as `color_palette`
            finds.
        temperature: tau.

    Raises:
        ValueError: If the palette has another shape or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import ColorTracking
        >>> from sslkern.methods.color_tracking import color_palette
        >>> frames = torch.rand(2, 4, 3, 8, 8)
        >>> encoder = torch.nn.Conv2d(1, 16, 3, stride=2, padding=1)
        >>> model = ColorTracking(encoder, 16, color_palette(frames, colors=6))
        >>> model(frames).backward()

    Source: Vondrick et al., "Tracking Emerges by Colorizing Videos", 2018,
    https://arxiv.org/abs/1806.09594
    """

    palette: Tensor

    def __init__(
        self, encoder: nn.Module, map_dim: int, palette: Tensor, *, temperature: float = 1.0
    ) -> None:
        super().__init__()
        check_count(map_dim, "map_dim", "ColorTracking")
        check_positive_number(temperature, "temperature", "ColorTracking")
        if palette.dim() != 2 or len(palette) < 2 or palette.shape[1] != 2:
            refuse("ColorTracking", "palette", "(K, 2) with K at least 2", tuple(palette.shape))
        self.encoder = encoder
        self.map_dim = map_dim
        self.register_buffer("palette", palette)
        self.temperature = temperature

    def forward(self, frames: Tensor) -> Tensor:
        """Return the mean loss of the cells of the last frames.

        Args:
            frames: (B, T, 3, H, W) sRGB from 0 to 1, at least 2 frames.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are too few frames or not three channels, or the encoder does not
                return maps (B T, map_dim, h, w).
        """
        check_clips(frames, "ColorTracking")
        lightness, color = split_lab(frames, "ColorTracking")
        maps = encode_maps(self.encoder, lightness.flatten(0, 1), self.map_dim, "ColorTracking")
        own = self._nearest(F.interpolate(color.flatten(0, 1), maps.shape[2:], mode="area"))
        own = own.reshape(*frames.shape[:2], -1)
        rows = cells(maps).reshape(*own.shape, self.map_dim)
        given = F.one_hot(own[:, :-1].flatten(1), len(self.palette)).to(rows.dtype)
        copied = F.scaled_dot_product_attention(
            rows[:, -1], rows[:, :-1].flatten(1, 2), given, scale=1 / self.temperature
        )
        right = copied.gather(2, own[:, -1, :, None])
        return -(right.to(accumulate_dtype(right)) + _TINY).log().mean()

    def _nearest(self, color: Tensor) -> Tensor:
        """The nearest color of the palette (B, S) to each of (B, 2, h, w)."""
        return torch.cdist(cells(color), self.palette).argmin(2)


def color_palette(
    frames: Tensor, colors: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Clusters of the colors in frames.

    Args:
        frames: (..., 3, H, W) sRGB from 0 to 1.
        colors: K, how many.
        generator: Of the first centroids.

    Returns:
        (K, 2): a and b of CIELAB, divided by 100.

    Raises:
        ValueError: If there are not three channels, or fewer pixels than colors.
    """
    color = split_lab(frames, "color_palette")[1]
    return kmeans(color.movedim(-3, -1).reshape(-1, 2), colors, generator=generator).centroids
