"""Matrices of the same numbers that lie otherwise in memory."""

from __future__ import annotations

import pytest
import torch

in_memory_layouts = pytest.mark.parametrize(
    "view",
    [
        lambda z: z.T.contiguous().T,
        lambda z: torch.cat([z, z], dim=1)[:, : z.shape[1]],
        lambda z: torch.stack([z, z], dim=1)[:, 1],
        lambda z: torch.stack([z, z], dim=2)[:, :, 0],
        lambda z: torch.cat([torch.zeros(1, z.shape[1]), z])[1:],
    ],
    ids=["transposed", "row-stride", "interleaved", "column-stride", "offset"],
)
