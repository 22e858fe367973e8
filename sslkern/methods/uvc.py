"""UVC: regions are located and their pixels matched by one affinity, which copies colors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.clips import centers, check_clips, draw_squares, split_lab
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.ops._common import accumulate_dtype, check_flags, check_positive_number, refuse
from sslkern.ops._embeddings import check_count, check_not_negative

CHANNEL_WEIGHTS = (1.0, 1.0, 1.0)
"""Of L, a and b in errors of color, by default."""
WEIGHTS = {"color": 1.0, "orthogonal": 0.1, "concentration": 0.1, "coordinate": 0.1}
"""Of the losses, by default."""


class UVC(Method):
    r"""Joint-task self-supervised learning for temporal correspondence.

    .. math:: A_{ij} = \operatorname*{softmax}_i \left( \frac{\cos(f_i, f'_j)}{\tau} \right), \quad
              \hat c' = A^\top c, \quad \hat c = A' c', \quad \hat u = A^\top u

    Of two frames the encoder sees the lightness alone. A patch of whole cells at a random place of
    the first one has cells f, and cells f' the region of the second frame that it is located in:
    where the cells of the patch expect themselves, by their affinity with the whole second frame,
    on average. Between patch and region, A' is the softmax along the other axis. The loss is the
    weighted sum of

    - ``color``: mean absolute error of the region's colors, L, a and b, copied from the patch;
    - ``orthogonal``: that of the patch's colors, copied back by the transpose of A, which
      needs A to be orthogonal;
    - ``coordinate``: mean absolute error of the patch's coordinates, carried to the region and
      back;
    - ``concentration``: mean squared distance of the coordinates that a window of cells is carried
      to, from their mean in the window, in both directions.

    What is copied are the colors of cells, the means over their pixels; or, as in the paper, the
    features of an autoencoder of colors, which decodes them to colors of pixels. The region is as
    large as the patch, or, as in the paper, as large as where its cells expect themselves.
    Coordinates are from -1 to 1 over a patch, L is divided by 100 as are a and b.

    Args:
        encoder: Maps lightness (B, 1, H, W), from 0 to 1, to feature maps (B, map_dim, h, w).
        map_dim: Channels of the maps.
        patch_size: Side P of a patch in cells.
        window: Side of the windows of the concentration, in cells; it divides the patch's.
        temperature: tau.
        weights: Of the losses, for those that are to differ from `WEIGHTS`.
        channel_weights: Of L, a and b in the two errors of color; the paper's code has 1, 10, 10.
        color_encoder: Maps colors (B, 3, H, W) to feature maps (B, C, h, w). The paper's is trained
            with its decoder beforehand, and frozen.
        color_decoder: Maps features (B, C, P, P) of patches to their colors, (B, 3, p, q) for any
            number of pixels.
        adapt_region: Whether the half sides of the region are twice the mean distance, along x and
            y, of where the patch's cells expect themselves from the region's center.

    Raises:
        ValueError: If a size or the temperature is not positive, windows do not fill a patch, a
            loss is unknown, a weight negative, there are not three of the channels, or of encoder
            and decoder of colors there is one alone.

    Example:
        >>> import torch
        >>> from sslkern.methods import UVC
        >>> encoder = torch.nn.Conv2d(1, 16, 3, stride=2, padding=1)
        >>> model = UVC(encoder, map_dim=16, patch_size=4, window=2)
        >>> model(torch.rand(2, 2, 3, 16, 16)).backward()

    Source: Li et al., "Joint-task Self-supervised Learning for Temporal Correspondence", 2019,
    https://arxiv.org/abs/1909.11895
    """

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        *,
        patch_size: int = 8,
        window: int = 4,
        temperature: float = 0.05,
        weights: Mapping[str, float] | None = None,
        channel_weights: Sequence[float] = CHANNEL_WEIGHTS,
        color_encoder: nn.Module | None = None,
        color_decoder: nn.Module | None = None,
        adapt_region: bool = False,
    ) -> None:
        super().__init__()
        check_count(map_dim, "map_dim", "UVC")
        check_positive_number(temperature, "temperature", "UVC")
        check_count(patch_size, "patch_size", "UVC")
        check_count(window, "window", "UVC")
        if patch_size % window:
            refuse("UVC", "window", f"a divisor of patch_size, {patch_size}", window)
        self.weights = {**WEIGHTS, **(weights or {})}
        if self.weights.keys() != WEIGHTS.keys():
            refuse("UVC", "weights", f"of {', '.join(WEIGHTS)}", ", ".join(self.weights))
        for name, weight in self.weights.items():
            check_not_negative(weight, f"the weight {name}", "UVC")
        if len(channel_weights) != len(CHANNEL_WEIGHTS):
            refuse("UVC", "channel_weights", "of L, a and b", f"{len(channel_weights)} of them")
        for weight in channel_weights:
            check_not_negative(weight, "a channel's weight", "UVC")
        if (color_encoder is None) != (color_decoder is None):
            refuse("UVC", "color_encoder", "given together with color_decoder", "one of them")
        check_flags("UVC", adapt_region=adapt_region)
        self.encoder = encoder
        self.color_encoder = color_encoder
        self.color_decoder = color_decoder
        self.channel_weights = tuple(channel_weights)
        self.adapt_region = adapt_region
        self.map_dim = map_dim
        self.patch_size = patch_size
        self.window = window
        self.temperature = temperature

    def forward(self, frames: Tensor) -> Tensor:
        """Return the mean loss of a batch of clips, of their first and last frames.

        Args:
            frames: (B, T, 3, H, W) sRGB from 0 to 1, at least 2 frames.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are too few frames or not three channels, or the encoder does not
                return maps (2 B, map_dim, h, w), which a patch fits in, or those of colors do not
                return maps as large and colors.
        """
        check_clips(frames, "UVC")
        pair = frames[:, [0, -1]].transpose(0, 1).flatten(0, 1)
        lightness, color = split_lab(pair, "UVC")
        maps = encode_maps(self.encoder, lightness, self.map_dim, "UVC")
        if min(maps.shape[2:]) < self.patch_size:
            least = f"maps of at least {self.patch_size} cells a side"
            refuse("UVC", "encoder", f"a module that returns {least}", tuple(maps.shape))
        lab = torch.cat([lightness, color], 1)
        colors = F.interpolate(lab, maps.shape[2:], mode="area")
        contents, pictures = colors, colors
        if self.color_encoder is not None:
            contents, pictures = _encode_colors(self.color_encoder, lab, maps.shape[2:]), lab
        # Sampling takes maps and places of one dtype.
        with torch.autocast(frames.device.type, enabled=False):
            maps = F.normalize(maps.to(accumulate_dtype(maps)), dim=1)
            both = torch.cat([maps, contents.to(maps.dtype)], 1)
            first, last = both.chunk(2)
            squares = Squares(draw_squares(first, self.patch_size), self._share(first))
            patch = sample(first, squares, self.patch_size)
            found = self._locate(patch, last)
            region = sample(last, found, self.patch_size)
            scenes = zip(pictures.chunk(2), (squares, found), strict=True)
            return self._loss(patch, region, list(scenes))

    def _loss(
        self, patch: Tensor, region: Tensor, scenes: Sequence[tuple[Tensor, Squares]]
    ) -> Tensor:
        (f, c), (f_region, c_region) = self._split(patch), self._split(region)
        logits = F.normalize(f, dim=2) @ F.normalize(f_region, dim=2).transpose(1, 2)
        logits = logits / self.temperature
        on, back = logits.softmax(1).transpose(1, 2), logits.softmax(2)
        place = centers(self.patch_size, self.patch_size).to(f)
        carried, returned = on @ place, back @ place
        here, there = scenes
        losses = {
            "color": self._error(on @ c, *there),
            "orthogonal": self._error(on.transpose(1, 2) @ c_region, *here),
            "coordinate": (back @ carried - place).abs().mean(),
            "concentration": self._spread(carried) + self._spread(returned),
        }
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _error(self, copied: Tensor, pictures: Tensor, squares: Squares) -> Tensor:
        """Mean absolute error of the colors of squares of pictures, from cells (B, S, C)."""
        shape = (len(copied), -1, self.patch_size, self.patch_size)
        colors = copied.transpose(1, 2).reshape(shape)
        if self.color_decoder is not None:
            colors = self.color_decoder(colors.to(pictures.dtype)).to(copied.dtype)
            if colors.dim() != 4 or colors.shape[:2] != (len(copied), 3):
                requirement = f"a module that returns colors ({len(copied)}, 3, ...)"
                refuse("UVC", "color_decoder", requirement, tuple(colors.shape))
        wanted = sample(pictures.to(copied.dtype), squares, *colors.shape[2:])
        weights = colors.new_tensor(self.channel_weights)[:, None, None]
        return ((colors - wanted).abs() * weights).mean()

    def _split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, S, map_dim) of the cells, and those of colors (B, S, C)."""
        rows = cells(both)
        return rows[..., : self.map_dim], rows[..., self.map_dim :]

    def _spread(self, place: Tensor) -> Tensor:
        """Mean squared distance of places (B, S, 2) from the mean of their window."""
        windows = self.patch_size // self.window
        shape = (len(place), windows, self.window, windows, self.window, 2)
        grid = place.reshape(shape)
        return (grid - grid.mean((2, 4), keepdim=True)).square().sum(5).mean()

    def _share(self, maps: Tensor) -> Tensor:
        """Half sides x, y (2,) of a patch, of which those of the frame are 1."""
        return maps.new_tensor([self.patch_size / side for side in maps.shape[:1:-1]])

    def _locate(self, patch: Tensor, last: Tensor) -> Squares:
        """Where the cells of a patch expect themselves in a frame on average, kept inside."""
        f, f_last = self._split(patch)[0], self._split(last)[0]
        affinity = (F.normalize(f, dim=2) @ f_last.transpose(1, 2) / self.temperature).softmax(2)
        expected = affinity @ centers(*last.shape[2:]).to(f)
        center, half = expected.mean(1), self._share(last)
        if self.adapt_region:
            # A side is four times the mean distance of what is spread evenly from its middle.
            half = 2 * (expected - center[:, None]).abs().mean(1).detach()
            half = half.clamp(self._share(last) / self.patch_size, torch.ones_like(half))
        return Squares(center.clamp(half - 1, 1 - half), half)


def _encode_colors(encoder: nn.Module, lab: Tensor, size: torch.Size) -> Tensor:
    contents: Tensor = encoder(lab)
    if contents.dim() != 4 or contents.shape[2:] != size or len(contents) != len(lab):
        requirement = f"a module that returns maps ({len(lab)}, C, {size[0]}, {size[1]})"
        refuse("UVC", "color_encoder", requirement, tuple(contents.shape))
    return contents


class Squares(NamedTuple):
    """Parts of maps, whose sides are 2 long."""

    center: Tensor  # (B, 2), x and y
    half: Tensor  # sides: (2,) or (B, 2)


def sample(maps: Tensor, squares: Squares, height: int, width: int | None = None) -> Tensor:
    """Values (B, C, height, width) in squares of maps (B, C, h, w), between their cells."""
    width = height if width is None else width
    points = centers(height, width).to(maps) * squares.half.unsqueeze(-2)
    points = points + squares.center[:, None]
    return F.grid_sample(maps, points.reshape(len(maps), height, width, 2), align_corners=False)
