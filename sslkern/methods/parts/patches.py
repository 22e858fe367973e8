"""Images as sequences of patches, for transformers."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count

_OP = "PatchEmbedding"

WAVELENGTH = 10_000.0
"""What the wavelengths of the sines rise to, in patches per radian, from one on."""


_PROPORTION = 0.3
"""Least ratio of the sides of a block."""


def patchify(images: Tensor, size: int) -> Tensor:
    """Cut images into patches without overlap, row by row.

    Args:
        images: (B, C, H, W), with sides that ``size`` divides.
        size: Side P of a patch in pixels.

    Returns:
        (B, L, C P P) with L = H W / P^2. A patch has its pixels in the order channel, row, column.

    Raises:
        ValueError: For another number of dimensions, or sides that are not multiples of ``size``.
        TypeError: If ``size`` is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.patches import patchify, unpatchify
        >>> images = torch.arange(16.0).view(1, 1, 4, 4)
        >>> patches = patchify(images, 2)
        >>> patches[0, 1].tolist()
        [2.0, 3.0, 6.0, 7.0]
        >>> torch.equal(unpatchify(patches, 2, (1, 4, 4)), images)
        True
    """
    rows, columns = grid_of(images, size, "patchify")
    batch, channels = images.shape[:2]
    cells = images.reshape(batch, channels, rows, size, columns, size)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * size * size)


def unpatchify(patches: Tensor, size: int, shape: tuple[int, int, int]) -> Tensor:
    """Put patches together again: the inverse of `patchify`.

    Args:
        patches: (B, L, C P P).
        size: Side P of a patch in pixels.
        shape: Of an image, (C, H, W).

    Returns:
        Images (B, C, H, W).

    Raises:
        ValueError: If the patches are not those of images of this shape.
        TypeError: If ``size`` is no integer.
    """
    check_count(size, "size", "unpatchify")
    channels, height, width = shape
    rows, columns = height // size, width // size
    expected = (rows * columns, channels * size * size)
    if patches.dim() != 3 or patches.shape[1:] != expected:
        requirement = f"of shape (B, {expected[0]}, {expected[1]})"
        refuse("unpatchify", "patches", requirement, f"shape {tuple(patches.shape)}")
    cells = patches.reshape(-1, rows, columns, channels, size, size)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def grid_of(images: Tensor, size: int, op: str) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: For another number of dimensions, or sides that are not multiples of ``size``.
        TypeError: If ``images`` is no tensor or ``size`` no integer.
    """
    check_tensor(images, "images", op)
    check_count(size, "size", op)
    if images.dim() != 4 or any(side % size or not side for side in images.shape[2:]):
        requirement = f"of shape (B, C, H, W) with sides that are multiples of {size}"
        refuse(op, "images", requirement, f"shape {tuple(images.shape)}")
    return images.shape[2] // size, images.shape[3] // size


def sincos_positions(
    grid: tuple[int, int], dim: int, extent: tuple[int, int] | None = None
) -> Tensor:
    """Sines and cosines of the row and the column of each patch.

    Args:
        grid: Rows and columns of patches.
        dim: Width D, a multiple of 4: a quarter each for the sine and the cosine of the row, and
            of the column.
        extent: Rows and columns of the patches that the coordinates are counted in, ``grid`` if
            not given. A smaller grid then spreads over the same extent, as a resized image does.

    Returns:
        (L, D) float64, row by row.

    Raises:
        ValueError: If the width is no multiple of 4.
    """
    check_count(dim, "dim", _OP)
    if dim % 4:
        refuse(_OP, "dim", "a multiple of 4", dim)
    frequency = WAVELENGTH ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    coordinates = [
        (torch.arange(count, dtype=torch.float64) + 0.5) * (whole / count) - 0.5
        for count, whole in zip(grid, extent or grid, strict=True)
    ]
    angles = [
        place.flatten()[:, None] * frequency for place in torch.meshgrid(coordinates, indexing="ij")
    ]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


def random_patches(batch: int, patches: int, count: int, device: torch.device) -> Tensor:
    """Some patches of each image, all equally likely, from torch's global generator.

    Args:
        batch: Number B of images.
        patches: Patches L of an image.
        count: How many are drawn, at most L.
        device: Where to draw.

    Returns:
        Indices (B, count) int64, increasing in each row.
    """
    order = torch.rand(batch, patches, device=device).argsort(1)
    return order[:, :count].sort(1).values


class PatchEmbedding(nn.Module):
    """Tokens of images: [CLS], and a linear map of each patch with its position.

    Positions are fixed sines and cosines and work for images of any size: smaller ones are taken
    as crops that were scaled down, whose patches spread over the same extent. [CLS] has no
    position.

    Args:
        shape: Of an image, (C, H, W).
        patch_size: Side P of a patch in pixels, which divides the sides of the images.
        dim: Width D of the tokens, a multiple of 4.
        mask_token: Whether there is a learned token that stands in for masked patches.

    Raises:
        ValueError: If a size does not fit.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.patches import PatchEmbedding
        >>> embed = PatchEmbedding((1, 8, 8), patch_size=2, dim=12)
        >>> images = torch.rand(5, 1, 8, 8)
        >>> embed(images).shape
        torch.Size([5, 17, 12])
        >>> embed(images, keep=torch.tensor([[0, 3]]).expand(5, 2)).shape
        torch.Size([5, 3, 12])

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition
    at Scale", 2020, https://arxiv.org/abs/2010.11929; the positions as in He et al., "Masked
    Autoencoders Are Scalable Vision Learners", 2021, https://arxiv.org/abs/2111.06377
    """

    def __init__(
        self, shape: tuple[int, int, int], patch_size: int, dim: int, *, mask_token: bool = False
    ) -> None:
        super().__init__()
        self.shape = shape
        self.patch_size = patch_size
        self.dim = dim
        self.grid = grid_of(torch.empty(1, *shape, device="meta"), patch_size, _OP)
        positions = sincos_positions(self.grid, dim).to(torch.get_default_dtype())
        self.register_buffer("positions", positions)
        self.projection = nn.Linear(shape[0] * patch_size**2, dim)
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim)) if mask_token else None

    positions: Tensor
    """Of the patches of an image of ``shape``, (L, D)."""

    @property
    def patches(self) -> int:
        """Patches L of an image of ``shape``."""
        return self.grid[0] * self.grid[1]

    def forward(
        self, images: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Embed images.

        Args:
            images: (B, C, H, W), with sides that the patch size divides.
            keep: Patches that become tokens, (B, M) int64, in this order; all if not given.
            mask: Patches that the mask token stands in for, (B, L) bool.

        Returns:
            Tokens (B, 1 + L, D), or (B, 1 + M, D); the first one is [CLS].

        Raises:
            ValueError: For a wrong shape, or a mask where there is no mask token.
        """
        grid = grid_of(images, self.patch_size, _OP)
        if images.shape[1] != self.shape[0]:
            refuse(_OP, "images", f"of {self.shape[0]} channels", images.shape[1])
        tokens = self.projection(patchify(images, self.patch_size))
        if mask is not None:
            tokens = torch.where(self._check(mask, tokens)[..., None], self._token(), tokens)
        tokens = tokens + self._positions(grid).to(tokens)
        if keep is not None:
            tokens = take_tokens(tokens, keep)
        cls = self.cls.to(tokens).expand(len(tokens), 1, self.dim)
        return torch.cat([cls, tokens], 1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.positions
        return sincos_positions(grid, self.dim, self.grid)

    def _check(self, mask: Tensor, tokens: Tensor) -> Tensor:
        check_tensor(mask, "mask", _OP)
        if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
            requirement = f"bool of shape {tuple(tokens.shape[:2])}"
            refuse(_OP, "mask", requirement, f"{mask.dtype} of shape {tuple(mask.shape)}")
        return mask

    def _token(self) -> Tensor:
        if self.mask_token is None:
            refuse(_OP, "mask", "None where mask_token=False", "a tensor")
        return self.mask_token


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, M, D) of (B, L, D) at the places (B, M) of each row.

    Raises:
        ValueError: If the places are not of shape (B, M).
    """
    if index.dim() != 2 or len(index) != len(tokens):
        refuse(_OP, "keep", f"of shape ({len(tokens)}, M)", f"shape {tuple(index.shape)}")
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def random_blocks(
    batch: int,
    grid: tuple[int, int],
    ratio: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """A rectangle of patches of each image, from torch's global generator.

    Its area is uniform between the two shares of the grid, the logarithm of its proportions
    uniform between 0.3 and 1 / 0.3; then its sides are rounded and cut to the grid, to at least
    one patch.

    Args:
        batch: Number B of images.
        grid: Rows and columns of patches.
        ratio: Least and largest share of the patches.
        device: Where to draw.

    Returns:
        (B, L) bool, true in the rectangle.
    """
    share, shape, *place = torch.rand(4, batch, 1, device=device)
    area = (ratio[0] + (ratio[1] - ratio[0]) * share) * grid[0] * grid[1]
    aspect = _PROPORTION ** (2 * shape - 1)
    inside = []
    for side, size, at in zip((area * aspect, area / aspect), grid, place, strict=True):
        length = side.sqrt().round().clamp(1, size)
        first = (at * (size - length + 1)).floor()
        cell = torch.arange(size, device=device)
        inside.append((cell >= first) & (cell < first + length))
    rows, columns = inside
    block: Tensor = rows[:, :, None] & columns[:, None, :]
    return block.flatten(1)


def most_in_block(grid: tuple[int, int], ratio: float) -> int:
    """At least as many patches as a rectangle of `random_blocks` has, for the largest share."""
    area = ratio * grid[0] * grid[1]
    sides = product(*(range(1, side + 1) for side in grid))
    return max(h * w for h, w in sides if min(h, w) == 1 or (h - 0.5) * (w - 0.5) <= area)


def encode_tokens(encoder: nn.Module, tokens: Tensor, op: str) -> Tensor:
    """What a transformer makes of tokens (B, L, D).

    Raises:
        ValueError: If it returns another shape.
    """
    encoded: Tensor = encoder(tokens)
    if encoded.shape != tokens.shape:
        requirement = f"a module that returns the shape {tuple(tokens.shape)}"
        refuse(op, "encoder", requirement, tuple(encoded.shape))
    return encoded


class ClsToken(nn.Module):
    """The first token of each sequence, (B, L, D) -> (B, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Leave out the tokens of the patches."""
        return tokens[:, 0]
