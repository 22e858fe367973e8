"""KoLeo, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.reference._common import normalize_rows, to_working_dtype


def koleo_loss(z: Tensor, *, p: float = 2.0, eps: float = 1e-8) -> Tensor:
    """Minus the mean log of the distance to the nearest row; see `sslkern.koleo_loss`."""
    x = normalize_rows(to_working_dtype(z))
    square = x.detach().square().sum(1)
    distance = square[:, None] - 2 * x.detach() @ x.detach().T + square
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    nearest = distance.masked_fill(itself, float("inf")).argmin(1)
    apart: Tensor = torch.linalg.vector_norm(x - x[nearest], ord=p, dim=1)
    return -(apart + eps).log().mean()
