"""The crops of a batch, of which methods assign or teach from the first ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkern.methods.method import encode, normalizes_batches
from sslkern.methods.parts.multicrop import encode_crops
from sslkern.ops._common import check_tensor, refuse


def check_crops(
    crops: Sequence[Tensor], large: int, op: str, *, least: int = 2, norms: Sequence[nn.Module] = ()
) -> None:
    """Reject crops that a method cannot use together.

    Args:
        crops: Of one batch, (B, ...) each, the ``large`` ones first.
        large: How many of them have one shape and are assigned or taught from.
        op: Name of the method.
        least: Least number of crops.
        norms: Modules that see all crops of one shape as a batch.

    Raises:
        ValueError: For too few crops, several batch sizes, large crops of several shapes, or one
            sample where a batch norm in training needs two.
        TypeError: If a crop is no tensor.
    """
    least = max(least, large)
    if len(crops) < least:
        refuse(op, "crops", f"at least {least}", len(crops))
    for i, crop in enumerate(crops, 1):
        check_tensor(crop, f"crop {i}", op)
        if crop.dim() == 0 or len(crop) == 0:
            refuse(op, f"crop {i}", "of at least one sample", f"shape {tuple(crop.shape)}")
        if len(crop) != len(crops[0]):
            refuse(op, f"crop {i}", f"of the batch size of crop 1, {len(crops[0])}", len(crop))
        if i <= large and crop.shape != crops[0].shape:
            shape = tuple(crops[0].shape)
            refuse(op, f"crop {i}", f"of the shape of crop 1, {shape}", tuple(crop.shape))
    together = min(Counter(crop.shape for crop in crops).values()) * len(crops[0])
    if together < 2 and any(map(normalizes_batches, norms)):
        requirement = "of at least 2 samples, which batch normalization needs in training"
        refuse(op, "a batch", requirement, together)


def encode_all(encoder: nn.Module, crops: Sequence[Tensor], feature_dim: int, op: str) -> Tensor:
    """Features (V B, feature_dim) of V crops, crop by crop; the encoder sees one size at a time.

    Raises:
        ValueError: If the encoder returns another shape.
    """
    parts = encode_crops(lambda rows: encode(encoder, rows, feature_dim, op), crops)
    return torch.cat(parts)
