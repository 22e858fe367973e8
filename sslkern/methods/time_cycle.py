"""Time cycle: a patch that is tracked back in time and forth again is where it was."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.clips import centers, check_clips, draw_squares
from sslkern.methods.parts.maps import encode_maps
from sslkern.ops._common import accumulate_dtype, check_positive_number, refuse
from sslkern.ops._embeddings import check_count, check_not_negative

_HIDDEN = (128, 64)
"""Channels of the localizer, as in the paper's code."""


class TimeCycle(Method):
    r"""Correspondence from the cycle-consistency of time.

    .. math:: \ell = \sum_{i=1}^{T-1} \left( \lambda\, \ell_{\mathrm{skip}}^i
              + \lambda\, \ell_{\mathrm{long}}^i - a_i \right) + \mu \left(
              \ell_{\mathrm{own}} - a_0 \right)

    The tracker takes the affinity of the cells of a patch with those of a frame's map: the softmax
    over the frame's cells of their cosines over :math:`\tau`. A localizer reads a shift and an
    angle from it; sampled there, the map gives the new patch. The first patch is a square of whole
    cells at a random place of the last frame, encoded by itself.

    The long cycle i tracks it through the i frames before the last one and back, the skip cycle to
    the i-th of them at once and back. Both compare where it ends, in the last frame, with where it
    began: the mean squared distance of the cells of the two squares, of which the frame's half
    sides are the units. :math:`a_i` is the mean affinity of the cells of the first patch with where
    they are found in the i-th frame before the last.

    The two cycles are the paper's. The affinity in place of the paper's mean cosine is from its
    code; cosines alone are best where all features are equal. Added here are the terms of the last
    frame itself, :math:`a_0` and, as for the cycles, :math:`\ell_{\mathrm{own}}`: without them an
    encoder that starts at random does not learn in few steps where to look. With a mu of 0 the loss
    is the paper's.

    Args:
        encoder: Maps frames (B, C, H, W) to feature maps (B, map_dim, h, w); it must take squares
            that are smaller than a frame, and shrink both alike.
        map_dim: Channels of the maps.
        map_size: (h, w), those of a frame.
        patch_size: Side P of a patch in cells, at least 2 and at most those of the map.
        localizer: Maps affinities (B, h w, P, P) to shifts along x and y, in half sides of the
            frame, and angles: (B, 3). If not given, two convolutions and a linear layer as in the
            paper; `ExpectedShift` has nothing to learn.
        temperature: tau; ``map_dim ** -0.5`` if not given, as in the paper's code.
        cycle_weight: lambda.
        own_weight: mu.

    Raises:
        ValueError: If a size or the temperature is not positive, the patch does not fit or a
            weight is negative.

    Example:
        >>> import torch
        >>> from sslkern.methods import TimeCycle
        >>> encoder = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        >>> model = TimeCycle(encoder, map_dim=16, map_size=(8, 8), patch_size=4)
        >>> model(torch.rand(2, 4, 3, 16, 16)).backward()

    Source: Wang, Jabri, Efros, "Learning Correspondence from the Cycle-Consistency of Time", 2019,
    https://arxiv.org/abs/1903.07593
    """

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        map_size: tuple[int, int],
        patch_size: int,
        *,
        localizer: nn.Module | None = None,
        temperature: float | None = None,
        cycle_weight: float = 0.1,
        own_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_count(map_dim, "map_dim", "TimeCycle")
        temperature = map_dim**-0.5 if temperature is None else temperature
        check_positive_number(temperature, "temperature", "TimeCycle")
        for name, weight in (("cycle_weight", cycle_weight), ("own_weight", own_weight)):
            check_not_negative(weight, name, "TimeCycle")
        for side in map_size:
            check_count(side, "map_size", "TimeCycle")
        check_count(patch_size, "patch_size", "TimeCycle")
        if not 2 <= patch_size <= min(map_size):
            requirement = f"from 2 to the shorter side of the map, {min(map_size)}"
            refuse("TimeCycle", "patch_size", requirement, patch_size)
        self.encoder = encoder
        self.map_dim = map_dim
        self.map_size = tuple(map_size)
        self.patch_size = patch_size
        cells = map_size[0] * map_size[1]
        self.localizer = convolutions(cells, patch_size) if localizer is None else localizer
        self.temperature = temperature
        self.cycle_weight = cycle_weight
        self.own_weight = own_weight

    def forward(self, frames: Tensor) -> Tensor:
        """Return the mean loss of a batch of clips, of one random patch each.

        Args:
            frames: (B, T, C, H, W), at least 2 frames.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are too few frames, or the encoder does not return maps
                (B T, map_dim, h, w) for them and (B, map_dim, patch_size, patch_size) for squares.
        """
        check_clips(frames, "TimeCycle")
        maps = self._encode(frames.flatten(0, 1), self.map_size)
        place = self._draw(maps[: len(frames)].to(frames.dtype))
        patch = self._encode(self._crop(frames[:, -1], place), (self.patch_size, self.patch_size))
        # Sampling takes maps and places of one dtype.
        with torch.autocast(frames.device.type, enabled=False):
            maps, patch, place = (x.to(accumulate_dtype(x)) for x in (maps, patch, place))
            maps = maps.reshape(*frames.shape[:2], *maps.shape[1:])
            return self._loss(maps.flip(1), patch, place)

    def _loss(self, maps: Tensor, patch: Tensor, place: Tensor) -> Tensor:
        """Loss of maps (B, T, C, h, w), the latest first, and of a patch of the latest."""
        now, back = maps[:, 0], patch
        own = self._track(now, patch)
        loss = self.own_weight * (self._distance(own.place, place) - own.affinity)
        for i in range(1, maps.shape[1]):
            skip = self._track(maps[:, i], patch)
            back = self._track(maps[:, i], back).patch
            found = back
            for s in range(i - 1, 0, -1):
                found = self._track(maps[:, s], found).patch
            for end in (skip.patch, found):
                distance = self._distance(self._track(now, end).place, place)
                loss = loss + self.cycle_weight * distance
            loss = loss - skip.affinity
        return loss

    def _track(self, maps: Tensor, patch: Tensor) -> _Found:
        rows, cells = F.normalize(maps, dim=1).flatten(2), F.normalize(patch, dim=1).flatten(2)
        affinity = (rows.transpose(1, 2) @ cells / self.temperature).softmax(1)
        shape = (len(maps), -1, self.patch_size, self.patch_size)
        shift_x, shift_y, angle = self.localizer(affinity.reshape(shape)).T
        place = self._place(shift_x, shift_y, angle)
        points = self._points(place)
        planes = affinity.transpose(1, 2).reshape(-1, 1, *self.map_size)
        found = F.grid_sample(planes, points.reshape(-1, 1, 1, 2), align_corners=False)
        return _Found(sample(maps, points), place, found.mean())

    def _place(self, shift_x: Tensor, shift_y: Tensor, angle: Tensor) -> Tensor:
        """Affine maps (B, 2, 3) of squares of the patch's size, in the frame's [-1, 1]."""
        tall, wide = (self.patch_size / side for side in self.map_size)
        cos, sin = angle.cos(), angle.sin()
        row_x = torch.stack([wide * cos, -wide * sin, shift_x], 1)
        return torch.stack([row_x, torch.stack([tall * sin, tall * cos, shift_y], 1)], 1)

    def _draw(self, maps: Tensor) -> Tensor:
        """Upright squares of whole cells of the frame, (B, 2, 3)."""
        shift_x, shift_y = draw_squares(maps, self.patch_size).T
        return self._place(shift_x, shift_y, torch.zeros_like(shift_x))

    def _crop(self, images: Tensor, place: Tensor) -> Tensor:
        """Squares of images, of as many pixels for a cell as the frame has."""
        sides = zip(images.shape[2:], self.map_size, strict=True)
        height, width = (self.patch_size * pixels // cells for pixels, cells in sides)
        return sample(images, F.affine_grid(place, [len(place), 1, height, width], False))

    def _encode(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        maps = encode_maps(self.encoder, images, self.map_dim, "TimeCycle")
        if maps.shape[2:] != size:
            requirement = f"a module that returns {size} cells for {tuple(images.shape[2:])} pixels"
            refuse("TimeCycle", "encoder", requirement, tuple(maps.shape[2:]))
        return maps

    def _points(self, place: Tensor) -> Tensor:
        """Centers of the cells (B, P, P, 2) of squares."""
        return F.affine_grid(place, [len(place), 1, self.patch_size, self.patch_size], False)

    def _distance(self, found: Tensor, place: Tensor) -> Tensor:
        """Mean squared distance of the cells of squares from where they should be."""
        return (self._points(found) - self._points(place)).square().sum(3).mean()


class _Found(NamedTuple):
    """What tracking a patch in a frame gives."""

    patch: Tensor  # (B, C, P, P)
    place: Tensor  # (B, 2, 3)
    affinity: Tensor  # scalar, mean over the patch's cells of that with where they are found


class ExpectedShift(nn.Module):
    """A localizer that shifts a patch by the mean of where its cells expect themselves to be.

    Args:
        map_size: (h, w) cells of a frame.
        patch_size: Side P of a patch in cells.
    """

    frame: Tensor
    patch: Tensor

    def __init__(self, map_size: tuple[int, int], patch_size: int) -> None:
        super().__init__()
        scale = torch.tensor([patch_size / map_size[1], patch_size / map_size[0]])
        self.register_buffer("frame", centers(*map_size).float())
        self.register_buffer("patch", centers(patch_size, patch_size).float() * scale)

    def forward(self, affinity: Tensor) -> Tensor:
        """Map affinities (B, h w, P, P) to shifts along x and y, and angles of 0: (B, 3)."""
        expected = affinity.flatten(2).transpose(1, 2) @ self.frame
        return F.pad((expected - self.patch).mean(1), (0, 1))


def convolutions(cells: int, patch_size: int) -> nn.Sequential:
    """Affinity (B, cells, patch_size, patch_size) -> shift along x and y, and angle (B, 3)."""
    kernel = (patch_size + 2) // 3
    left = patch_size - 2 * (kernel - 1)
    last = nn.Linear(_HIDDEN[1] * left**2, 3)
    # Close to no shift and no turn, as squares far outside the frame show nothing to learn from.
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(cells, _HIDDEN[0], kernel, bias=False),
        nn.LeakyReLU(0.1),
        nn.Conv2d(_HIDDEN[0], _HIDDEN[1], kernel, bias=False),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        last,
    )


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps (B, C, H, W) at points (B, h, w, 2), between their cells; 0 outside."""
    return F.grid_sample(maps, points, align_corners=False)
