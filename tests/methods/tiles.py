"""What tests of methods with tiles share: an encoder of any size, and tiles by loops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.parts.jigsaw import TileEmbedding


def any_size_encoder() -> nn.Sequential:
    """Images (B, 1, H, W) of any size -> (B, 4), with a batch norm."""
    layers = [nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten())


def plain_tiles(part: TileEmbedding, encoder: nn.Module, view: Tensor) -> Tensor:
    """What the part, of 2 x 2 tiles of 2 pixels, makes of images (B, 1, 6, 6)."""
    places = (torch.rand(2, 4, len(view)) * 2).long()
    tiles = []
    for i, image in enumerate(view):
        for cell, (row, column) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3))):
            top, left = row + int(places[0, cell, i]), column + int(places[1, cell, i])
            tiles.append(image[:, top : top + 2, left : left + 2])
    rows = part.tile_head(encoder(torch.stack(tiles))).view(len(view), 4, -1)
    order = torch.rand(len(view), 4).argsort(1).tolist()
    pairs = zip(rows, order, strict=True)
    return part.join(torch.stack([torch.cat([own[i] for i in places]) for own, places in pairs]))
