"""Feature maps as rows, a row for each cell."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.ops._common import refuse


def encode_maps(encoder: nn.Module, images: Tensor, map_dim: int, op: str) -> Tensor:
    """Feature maps (B, map_dim, ...) of a batch.

    Raises:
        ValueError: If the encoder returns another shape.
    """
    maps: Tensor = encoder(images)
    expected = (len(images), map_dim)
    if maps.dim() < 3 or maps.shape[:2] != expected:
        shape = f"({expected[0]}, {expected[1]}, ...)"
        refuse(op, "encoder", f"a module that returns maps {shape}", tuple(maps.shape))
    return maps


def cells(maps: Tensor) -> Tensor:
    """Rows (B, S, C) of maps (B, C, ...) of S cells, in the order of the memory of one channel.

    A linear layer on them is a convolution of 1 x 1 on the maps.
    """
    return maps.flatten(2).transpose(1, 2)
