"""PixPro: cells of two crops that show the same place predict each other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number, check_same_device, check_tensor, refuse
from sslkern.ops._embeddings import check_count, check_not_negative, full_precision
from sslkern.reference._common import to_working_dtype


class PixPro(Method):
    r"""Consistency of pixels with their propagated neighbors.

    .. math::
        y_i &= \sum_j \max(\cos(x_i, x_j), 0)^{\gamma}\, \frac{g(x_j)}{\lVert g(x_j) \rVert} \\
        \ell &= -2 \operatorname*{mean}_{b} \frac{\sum_{ij} A_{ij} \cos(y_i, x'_j)}
                {\sum_{ij} A_{ij} + 10^{-6}} + \text{the same with the crops swapped}

    with the projected cells x of one crop, those of the momentum encoder and the other crop x',
    and a linear map g. The first line is the pixel propagation module, which smooths the cells of
    the one branch that has a gradient; :math:`\cos` also scales y and x' to unit norm. Cells are
    positives, :math:`A_{ij} = 1`, where the distance of their centers in the image, over the
    longer of the two crops' cell diagonals, is below a radius. The loss is -4 where all positives
    are equal and each pair of crops has some.

    The projection is a convolution of 1 x 1, batch norm, ReLU and a second convolution. The
    momentum rises to 1 as half a cosine. All of it follows the paper's code; its further loss of
    whole images, which is off by default, is left out.

    Args:
        encoder: Maps views (B, ...) to feature maps (B, map_dim, H, W).
        map_dim: Channels of the maps.
        hidden_dim: Width of the projection's hidden layer.
        projection_dim: Width of the projected cells.
        momentum: Of the momentum encoder at the start, from 0 to 1.
        radius: Below which two cells are positives, in cell diagonals.
        sharpness: gamma, positive.

    Raises:
        ValueError: If a size or the sharpness is not positive, the momentum is outside [0, 1] or
            the radius is negative.

    Example:
        >>> import torch
        >>> from sslkern.methods import PixPro
        >>> encoder = torch.nn.Conv2d(1, 32, 3, stride=2, padding=1)
        >>> model = PixPro(encoder, map_dim=32)
        >>> images = torch.rand(16, 1, 12, 12)
        >>> crop_a = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(16, 4)
        >>> crop_b = crop_a + 2
        >>> model(images[..., :8, :8], images[..., 2:10, 2:10], crop_a, crop_b).backward()

    Source: Xie et al., "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised
    Visual Representation Learning", 2020, https://arxiv.org/abs/2011.10043
    """

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        momentum: float = 0.99,
        radius: float = 0.7,
        sharpness: float = 2.0,
    ) -> None:
        super().__init__()
        check_count(hidden_dim, "hidden_dim", "PixPro")
        check_count(projection_dim, "projection_dim", "PixPro")
        check_not_negative(radius, "radius", "PixPro")
        check_positive_number(sharpness, "sharpness", "PixPro")
        self.encoder = encoder
        self.map_dim = map_dim
        self.head = mlp([map_dim, hidden_dim, projection_dim])
        self.value = nn.Linear(projection_dim, projection_dim)
        self.teacher = Teacher(nn.ModuleList((encoder, self.head)), momentum, "cosine")
        self.radius = radius
        self.sharpness = sharpness

    def forward(self, view_a: Tensor, view_b: Tensor, crop_a: Tensor, crop_b: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_a: (B, ...); one crop of each image, scaled to the size of all views.
            view_b: Same shape; another crop of the same images.
            crop_a: Where the first crops are in their images, (B, 4): left, top, right and bottom,
                in any unit. Left and right are swapped in a crop that was flipped.
            crop_b: The same of the second crops.

        Returns:
            Scalar, from -4 on.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two,
                the crops are not (B, 4), or the encoder returns no maps (B, map_dim, H, W).
        """
        check_views((view_a, view_b), "PixPro", norms=[self.encoder, self.head])
        for name, crop in (("crop_a", crop_a), ("crop_b", crop_b)):
            _check_crop(crop, name, view_a)
        student, teacher = (self.encoder, self.head), self.teacher.module
        y_a, y_b = (self.propagate(self._project(student, v)[0]) for v in (view_a, view_b))
        with torch.no_grad():
            (x_a, grid), (x_b, _) = (self._project(teacher.children(), v) for v in (view_a, view_b))
        positive = same_place(crop_a, crop_b, grid, self.radius)
        return _consistency(y_a, x_b, positive) + _consistency(y_b, x_a, positive.transpose(1, 2))

    def propagate(self, rows: Tensor) -> Tensor:
        """Cells (B, S, D) as sums of the transformed cells that they resemble."""
        x, value = F.normalize(rows, dim=2), F.normalize(self.value(rows), dim=2)
        similarity = (x @ x.transpose(1, 2)).clamp_min(0)
        propagated: Tensor = similarity.pow(self.sharpness) @ value
        return propagated

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.ModuleList((self.encoder, self.head)), progress)

    def _project(
        self, modules: Iterable[nn.Module], view: Tensor
    ) -> tuple[Tensor, tuple[int, int]]:
        """Projected cells (B, S, D), and the height and width of the map."""
        encoder, head = modules
        maps = encode_maps(encoder, view, self.map_dim, "PixPro")
        if maps.dim() != 4:
            refuse("PixPro", "encoder", "a module that returns maps (B, C, H, W)", maps.shape)
        rows = cells(maps)
        projected = head(rows.flatten(0, 1)).view(len(rows), rows.shape[1], -1)
        return projected, (maps.shape[2], maps.shape[3])


def same_place(crop_a: Tensor, crop_b: Tensor, grid: tuple[int, int], radius: float) -> Tensor:
    """Which cells are positives, (B, S, S) bool, for crops (B, 4) of a grid of cells each."""
    (center_a, diagonal_a), (center_b, diagonal_b) = (_centers(c, grid) for c in (crop_a, crop_b))
    offset = center_a[:, :, None] - center_b[:, None]
    distance = torch.linalg.vector_norm(offset, dim=3)
    positive: Tensor = distance / torch.maximum(diagonal_a, diagonal_b)[:, None, None] < radius
    return positive


def _centers(crop: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centers (B, S, 2), x and y, of the cells of crops, row by row, and their diagonals (B,)."""
    first, size = crop[:, :2], crop[:, 2:] - crop[:, :2]
    height, width = grid
    y, x = (((torch.arange(n, device=crop.device) + 0.5) / n).to(crop) for n in grid)
    share = torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)
    cell = size / size.new_tensor([width, height])
    return first[:, None] + share * size[:, None], torch.linalg.vector_norm(cell, dim=1)


def _consistency(y: Tensor, x: Tensor, positive: Tensor) -> Tensor:
    """-2 times the mean cosine of the positives, averaged over the images."""
    y, x = (F.normalize(to_working_dtype(rows), dim=2) for rows in (y, x))
    with full_precision(y):
        cosines = y @ x.transpose(1, 2)
    weight = positive.to(cosines.dtype)
    means = (cosines * weight).sum((1, 2)) / (weight.sum((1, 2)) + 1e-6)
    return -2 * means.mean()


def _check_crop(crop: Tensor, name: str, view: Tensor) -> None:
    check_tensor(crop, name, "PixPro")
    check_same_device(crop, name, view, "the views", "PixPro")
    if crop.shape != (len(view), 4) or not crop.is_floating_point():
        requirement = f"floating, of shape ({len(view)}, 4)"
        refuse("PixPro", name, requirement, f"{crop.dtype} of shape {tuple(crop.shape)}")
