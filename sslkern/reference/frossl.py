"""FroSSL, the definition in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkern.reference._common import normalize_rows, to_working_dtype


def frossl_loss(views: Tensor | Sequence[Tensor], *, invariance_weight: float = 1.0) -> Tensor:
    """Log of the Frobenius norms of the views' covariances, and their spread around the mean.

    See `sslkern.frossl_loss`.
    """
    stack = list(views.unbind(1)) if isinstance(views, Tensor) else list(views)
    unit = [normalize_rows(to_working_dtype(z).T).T for z in stack]
    mean = torch.stack(unit).mean(0)
    losses = []
    for z in unit:
        covariance = z.T @ z
        norm = torch.linalg.matrix_norm(covariance / covariance.trace())
        spread = len(unit) * (z - mean).square().sum() / len(z)
        losses.append(2 * norm.log() + invariance_weight * spread)
    return torch.stack(losses).sum()
