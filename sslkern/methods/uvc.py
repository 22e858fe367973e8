"""UVC: regions are located and their pixels matched by one affinity, which copies colors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.clips import centers, check_clips, draw_squares, split_lab
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.ops._common import accumulate_dtype, check_positive_number, refuse
from sslkern.ops._embeddings import check_count, check_not_negative

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

    As in the paper, with these simplifications: colors are means over the pixels of cells instead
    of features of an autoencoder of colors, and the error of L, a and b has one weight; the region
    is as large as the patch. Coordinates are from -1 to 1 over a patch.

    Args:
        encoder: Maps lightness (B, 1, H, W), from 0 to 1, to feature maps (B, map_dim, h, w).
        map_dim: Channels of the maps.
        patch_size: Side P of a patch in cells.
        window: Side of the windows of the concentration, in cells; it divides the patch's.
        temperature: tau.
        weights: Of the losses, for those that are to differ from `WEIGHTS`.

    Raises:
        ValueError: If a size or the temperature is not positive, windows do not fill a patch or a
            loss is unknown or its weight negative.

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
        self.encoder = encoder
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
                return maps (2 B, map_dim, h, w), which a patch fits in.
        """
        check_clips(frames, "UVC")
        pair = frames[:, [0, -1]].transpose(0, 1).flatten(0, 1)
        lightness, color = split_lab(pair, "UVC")
        maps = encode_maps(self.encoder, lightness, self.map_dim, "UVC")
        if min(maps.shape[2:]) < self.patch_size:
            least = f"maps of at least {self.patch_size} cells a side"
            refuse("UVC", "encoder", f"a module that returns {least}", tuple(maps.shape))
        colors = F.interpolate(torch.cat([lightness, color], 1), maps.shape[2:], mode="area")
        # Sampling takes maps and places of one dtype.
        with torch.autocast(frames.device.type, enabled=False):
            maps = F.normalize(maps.to(accumulate_dtype(maps)), dim=1)
            both = torch.cat([maps, colors.to(maps.dtype)], 1)
            first, last = both.chunk(2)
            patch = self._sample(first, draw_squares(first, self.patch_size))
            region = self._sample(last, self._locate(patch, last))
            return self._loss(patch, region)

    def _loss(self, patch: Tensor, region: Tensor) -> Tensor:
        (f, c), (f_region, c_region) = self._split(patch), self._split(region)
        logits = F.normalize(f, dim=2) @ F.normalize(f_region, dim=2).transpose(1, 2)
        logits = logits / self.temperature
        on, back = logits.softmax(1).transpose(1, 2), logits.softmax(2)
        place = centers(self.patch_size, self.patch_size).to(f)
        carried, returned = on @ place, back @ place
        losses = {
            "color": (on @ c - c_region).abs().mean(),
            "orthogonal": (on.transpose(1, 2) @ c_region - c).abs().mean(),
            "coordinate": (back @ carried - place).abs().mean(),
            "concentration": self._spread(carried) + self._spread(returned),
        }
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, S, map_dim) and colors (B, S, 3) of the cells."""
        rows = cells(both)
        return rows[..., : self.map_dim], rows[..., self.map_dim :]

    def _spread(self, place: Tensor) -> Tensor:
        """Mean squared distance of places (B, S, 2) from the mean of their window."""
        windows = self.patch_size // self.window
        shape = (len(place), windows, self.window, windows, self.window, 2)
        grid = place.reshape(shape)
        return (grid - grid.mean((2, 4), keepdim=True)).square().sum(5).mean()

    def _locate(self, patch: Tensor, last: Tensor) -> Tensor:
        """Where the cells of a patch expect themselves in a frame on average: (B, 2)."""
        f, f_last = self._split(patch)[0], self._split(last)[0]
        affinity = (F.normalize(f, dim=2) @ f_last.transpose(1, 2) / self.temperature).softmax(2)
        return (affinity @ centers(*last.shape[2:]).to(f)).mean(1)

    def _sample(self, maps: Tensor, center: Tensor) -> Tensor:
        """Squares (B, C, P, P) of maps (B, C, h, w) around centers (B, 2), kept inside."""
        share = center.new_tensor([self.patch_size / side for side in maps.shape[:1:-1]])
        center = center.clamp(share - 1, 1 - share)
        points = centers(self.patch_size, self.patch_size).to(maps) * share + center[:, None]
        shape = (len(maps), self.patch_size, self.patch_size, 2)
        return F.grid_sample(maps, points.reshape(shape), align_corners=False)
