"""W-MSE, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.reference._common import normalize_rows, to_working_dtype


def wmse_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    w_size: int | None = None,
    w_iter: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of 2 - 2 cos of rows whitened in sub-batches; see `sslkern.wmse_loss`."""
    a, b = to_working_dtype(z_a), to_working_dtype(z_b)
    n = len(a)
    if w_size is None or w_size == n:
        return _whitened_loss(a, b)
    losses = []
    for _ in range(w_iter):
        order = torch.randperm(n, generator=generator, device=a.device)
        losses += [_whitened_loss(a[part], b[part]) for part in order.view(-1, w_size)]
    return torch.stack(losses).mean()


def _whitened_loss(a: Tensor, b: Tensor) -> Tensor:
    cosine = (normalize_rows(_whiten(a)) * normalize_rows(_whiten(b))).sum(1)
    return (2 - 2 * cosine).mean()


def _whiten(z: Tensor) -> Tensor:
    """L^-1 (z - mean) for each row, where L L^T is the unbiased covariance."""
    centered = z - z.mean(0)
    factor = torch.linalg.cholesky(centered.T @ centered / (len(z) - 1))
    whitened: Tensor = torch.linalg.solve_triangular(factor, centered.T, upper=False)
    return whitened.T
