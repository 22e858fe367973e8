"""Labels that methods give to each sample of the training set."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.methods.parts.memory import check_index
from sslkern.ops._common import refuse

NONE = -1
"""The label of a sample before the first clustering."""


def no_labels(*shape: int) -> Tensor:
    """Labels before the first clustering, int64."""
    return torch.full(shape, NONE)


def labels_at(labels: Tensor, index: Tensor, batch: int, op: str) -> Tensor:
    """Labels (..., B) of the samples of a batch.

    Args:
        labels: Of all samples, (..., N) int64.
        index: Which samples, (B,) int64.
        batch: B.
        op: Name of the method.

    Raises:
        ValueError: If the index is of another shape or, on the CPU, out of range, or if there are
            no labels yet.
        TypeError: For another dtype.
    """
    check_index(index, "index", op, labels.shape[-1], labels)
    if index.shape != (batch,):
        refuse(op, "index", f"of shape ({batch},)", f"shape {tuple(index.shape)}")
    found = labels[..., index]
    if torch.compiler.is_compiling() or found.device.type != "cpu":
        return found
    if bool((found == NONE).any()):
        refuse(op, "a sample", "labeled by cluster() before the loss", "one without a label")
    return found


def check_all_rows(features: Tensor, samples: int, dim: int, op: str) -> None:
    """Reject features that are not (N, F) of all samples."""
    if features.shape != (samples, dim):
        refuse(op, "features", f"of shape ({samples}, {dim})", f"shape {tuple(features.shape)}")
