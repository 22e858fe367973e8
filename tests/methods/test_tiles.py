"""Tiles, and embeddings of them, beside loops over images and cells."""

from __future__ import annotations

import itertools

import pytest
import torch
from steps import small_encoder
from torch import Tensor, nn

from sslkern.methods.parts.jigsaw import TileEmbedding, cut_tiles


def images(batch: int = 3, height: int = 9, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 2, height, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("grid", "size"), [(2, 4), (2, 3), (3, 2), (3, 1)])
def test_tiles_lie_in_their_cells(grid: int, size: int) -> None:
    batch = images()
    torch.manual_seed(4)
    tiles = cut_tiles(batch, grid, size, "test")
    torch.manual_seed(4)
    draw = torch.rand(2, grid**2, len(batch))
    high, wide = 9 // grid, 8 // grid
    for cell, (row, column) in enumerate(itertools.product(range(grid), repeat=2)):
        for i, image in enumerate(batch):
            top = row * high + int(draw[0, cell, i] * (high - size + 1))
            left = column * wide + int(draw[1, cell, i] * (wide - size + 1))
            assert torch.equal(tiles[i, cell], image[:, top : top + size, left : left + size])


def test_every_place_in_a_cell_is_drawn() -> None:
    batch = torch.arange(16.0).view(1, 1, 4, 4).expand(400, 1, 4, 4)
    torch.manual_seed(0)
    tiles = cut_tiles(batch, 2, 1, "test")[:, 3].flatten()
    assert tiles.unique().tolist() == [10, 11, 14, 15]


def test_images_that_are_too_small_are_refused() -> None:
    for small in (images(height=5), images()[0], images(batch=0)):
        with pytest.raises(ValueError, match=r"test: expected images .* sides of at least 6"):
            cut_tiles(small, 2, 3, "test")


def make(grid: int = 2, hidden_dim: int | None = None) -> TileEmbedding:
    torch.manual_seed(0)
    part = TileEmbedding(12, 3, "test", grid=grid, tile_size=4, hidden_dim=hidden_dim)
    return part.double()


@pytest.mark.parametrize("hidden_dim", [None, 7])
def test_embedding_is_that_of_shuffled_tiles(hidden_dim: int | None) -> None:
    part, encoder = make(hidden_dim=hidden_dim), small_encoder().eval()
    batch = images(height=8)[:, :1]
    torch.manual_seed(1)
    embedded = part(encoder, batch)
    torch.manual_seed(1)
    torch.rand(2, 4, 3)
    order = torch.rand(3, 4).argsort(1).tolist()
    for image, own, z in zip(batch, order, embedded, strict=True):
        tiles = [image[:, r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4)]
        rows = [part.tile_head(encoder(tiles[i][None]))[0] for i in own]
        expected = part.join.weight @ torch.cat(rows) + part.join.bias
        torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def test_orders_of_an_image_are_all_there() -> None:
    """Weights that read off which tile is where."""
    part = make()
    part.tile_head = nn.Identity()
    part.join = nn.Identity()
    part.feature_dim = 1
    batch = torch.zeros(2000, 1, 8, 8)
    batch[:, :, 4:] += 2
    batch[:, :, :, 4:] += 1
    torch.manual_seed(0)
    orders = part(_Mean(), batch).long()
    found = {tuple(order) for order in orders.tolist()}
    assert found == set(itertools.permutations(range(4)))


class _Mean(nn.Module):
    def forward(self, tiles: Tensor) -> Tensor:
        return tiles.mean((1, 2, 3))[:, None]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="test: expected grid to be 2 or 3, got 4"):
        make(grid=4)
    with pytest.raises(ValueError, match="test: expected tile_size to be positive, got 0"):
        TileEmbedding(12, 3, "test", grid=2, tile_size=0)


def test_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test: expected encoder .* \(12, 12\), got \(12, 11\)"):
        make()(small_encoder(11), images(height=8)[:, :1])
