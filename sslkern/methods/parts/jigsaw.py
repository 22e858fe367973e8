"""Images as tiles, and embeddings of the tiles in a random order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.pretext import crop_at
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count

GRIDS = (2, 3)


def check_grid(grid: int, tile_size: int, op: str) -> None:
    """Reject sizes that make no tiles."""
    check_count(tile_size, "tile_size", op)
    if grid not in GRIDS:
        refuse(op, "grid", " or ".join(map(str, GRIDS)), grid)


def cut_tiles(images: Tensor, grid: int, size: int, op: str) -> Tensor:
    """One tile of each cell of a grid, at a random place within it.

    Args:
        images: (B, C, H, W), divided into ``grid`` x ``grid`` cells.
        grid: Cells along each side.
        size: Side P of a tile in pixels, at most that of a cell; smaller ones have gaps between
            them.
        op: Name of the method.

    Returns:
        (B, grid^2, C, P, P) in the order of the cells, row by row.

    Raises:
        ValueError: If the images are too small.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.jigsaw import cut_tiles
        >>> cut_tiles(torch.arange(16.0).view(1, 1, 4, 4), 2, 2, "example")[0, 1]
        tensor([[[2., 3.],
                 [6., 7.]]])
    """
    check_tensor(images, "images", op)
    least = grid * size
    if images.dim() != 4 or min(images.shape[2:]) < least or len(images) == 0:
        requirement = f"of shape (B, C, H, W) with sides of at least {least}"
        refuse(op, "images", requirement, f"shape {tuple(images.shape)}")
    sides = torch.tensor(images.shape[2:], device=images.device) // grid
    cell = torch.arange(grid**2, device=images.device)
    origin = torch.stack([cell // grid, cell % grid]) * sides[:, None]
    room = (sides - size + 1)[:, None, None]
    draw = torch.rand(2, grid**2, len(images), device=images.device)
    corners = origin[..., None] + (draw * room).long()
    return torch.stack([crop_at(images, c, size) for c in corners.unbind(1)], 1)


class TileEmbedding(nn.Module):
    r"""Embeds images by their tiles, whose order it is not to know.

    .. math:: z = V\,[h(f(t_{\pi(1)})), \ldots, h(f(t_{\pi(T)}))] + b

    Each image has a random permutation :math:`\pi` of its T tiles t at each pass, from torch's
    global generator, as have the tiles' places. The encoder f sees all tiles as one batch.

    Args:
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the embeddings, and of what h makes of a tile.
        op: Name of the method.
        grid: Tiles along each side, 2 or 3.
        tile_size: Side P of a tile in pixels.
        hidden_dim: Width of the hidden layer of h; linear if not given.

    Raises:
        ValueError: If a size is not positive or the grid is another one.

    Source: Misra, van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations",
    2019, https://arxiv.org/abs/1912.01991
    """

    def __init__(
        self,
        feature_dim: int,
        projection_dim: int,
        op: str,
        *,
        grid: int,
        tile_size: int,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_grid(grid, tile_size, op)
        self.op = op
        self.feature_dim = feature_dim
        self.grid = grid
        self.tile_size = tile_size
        hidden = [] if hidden_dim is None else [hidden_dim]
        self.tile_head = mlp([feature_dim, *hidden, projection_dim], norm="none")
        self.join = nn.Linear(grid**2 * projection_dim, projection_dim)

    def forward(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W).

        Args:
            encoder: Maps tiles (B T, C, P, P) to features (B T, feature_dim).
            images: Whose cells the tiles fit into.

        Raises:
            ValueError: If the images are too small, or the encoder returns another shape.
        """
        tiles = cut_tiles(images, self.grid, self.tile_size, self.op)
        flat = tiles.flatten(0, 1)
        check_views((flat,), self.op, norms=[encoder], name="tiles")
        rows = self.tile_head(encode(encoder, flat, self.feature_dim, self.op))
        rows = rows.view(*tiles.shape[:2], -1)
        order = torch.rand(rows.shape[:2], device=rows.device).argsort(1)
        shuffled = rows.gather(1, order[..., None].expand_as(rows))
        z: Tensor = self.join(shuffled.flatten(1))
        return z
