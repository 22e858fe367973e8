"""TiCo, the definition in eager PyTorch."""

from __future__ import annotations

from torch import Tensor

from sslkern.reference._common import normalize_rows, to_working_dtype


def tico_loss(
    z_a: Tensor,
    z_b: Tensor,
    state: Tensor,
    *,
    beta: float = 0.9,
    rho: float = 8.0,
    differentiate_covariance: bool = False,
) -> Tensor:
    """One minus the mean cosine, and rho times the mean of z^T C z; see `sslkern.tico_loss`."""
    a, b = normalize_rows(to_working_dtype(z_a)), normalize_rows(to_working_dtype(z_b))
    batch = a.T @ a / len(a)
    if not differentiate_covariance:
        batch = batch.detach()
    covariance = beta * state.to(a.dtype) + (1 - beta) * batch
    along = ((a @ covariance) * a).sum(1)
    return 1 - (a * b).sum(1).mean() + rho * along.mean()
