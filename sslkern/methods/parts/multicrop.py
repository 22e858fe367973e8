"""Crops of several sizes through one encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslkern.ops._common import check_tensor, refuse

_OP = "encode_crops"


def encode_crops(encoder: Callable[[Tensor], Tensor], crops: Sequence[Tensor]) -> list[Tensor]:
    """Encode crops with one call of the encoder for each size.

    Crops of the same size are stacked to one batch, in their order, wherever they are in the list:
    batch norms see all of them at once. The sizes come in the order of their first crops.

    Args:
        encoder: Takes (R, ...) to a tensor of R rows, such as (R, D), for any number R.
        crops: Tensors (B, ...) of the same B, such as images (B, C, H, W).

    Returns:
        What the encoder made of each crop, (B, ...), in the order of the crops.

    Raises:
        ValueError: For no crops, crops of several batch sizes, or an encoder that returns another
            number of rows.
        TypeError: If a crop, or what the encoder returns, is no tensor.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.multicrop import encode_crops
        >>> def encoder(images):
        ...     print(tuple(images.shape))
        ...     return images.mean((2, 3))
        >>> large, small = torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 16, 16)
        >>> z = encode_crops(encoder, [large, large, small, small, small])
        (8, 3, 32, 32)
        (12, 3, 16, 16)
        >>> len(z), tuple(z[2].shape)
        (5, (4, 3))

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """
    batch = _batch_size(crops)
    groups: dict[torch.Size, list[int]] = {}
    for i, crop in enumerate(crops):
        groups.setdefault(crop.shape[1:], []).append(i)
    encoded: dict[int, Tensor] = {}
    for places in groups.values():
        rows = _encode(encoder, [crops[i] for i in places])
        encoded.update(zip(places, torch.split(rows, batch), strict=True))
    return [encoded[i] for i in range(len(crops))]


def _batch_size(crops: Sequence[Tensor]) -> int:
    if len(crops) == 0:
        refuse(_OP, "crops", "at least one", "none")
    for i, crop in enumerate(crops):
        check_tensor(crop, f"crops[{i}]", _OP)
        if crop.dim() == 0 or len(crop) == 0:
            refuse(_OP, f"crops[{i}]", "of at least one sample", f"shape {tuple(crop.shape)}")
        if len(crop) != len(crops[0]):
            refuse(_OP, f"crops[{i}]", f"of batch size {len(crops[0])}, as crops[0]", len(crop))
    return len(crops[0])


def _encode(encoder: Callable[[Tensor], Tensor], crops: list[Tensor]) -> Tensor:
    images = crops[0] if len(crops) == 1 else torch.cat(crops)
    rows = encoder(images)
    check_tensor(rows, "what the encoder returns", _OP)
    if rows.dim() == 0 or len(rows) != len(images):
        requirement = f"of {len(images)} rows, as its input"
        refuse(_OP, "what the encoder returns", requirement, f"shape {tuple(rows.shape)}")
    return rows
