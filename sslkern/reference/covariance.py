"""VICReg and its three terms, the definition in eager PyTorch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import normalize_rows, to_working_dtype
from sslkern.reference.cross_correlation import off_diagonal


class VICRegTerms(NamedTuple):
    """What the loss is the weighted sum of, without weights and without gradient."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = 25.0,
    mu_param: float = 25.0,
    nu_param: float = 1.0,
    *,
    eps: float = 1e-4,
    variant: str = "official",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, VICRegTerms]:
    """Invariance, variance and covariance of two views; see `sslkern.vicreg_loss`."""
    if variant not in ("official", "solo", "vibcreg"):
        raise ValueError(f"expected variant to be 'official', 'solo' or 'vibcreg', got {variant!r}")
    invariance = invariance_loss(z_a, z_b)
    variance = variance_loss(z_a, eps=eps) + variance_loss(z_b, eps=eps)
    if variant == "official":
        variance = variance / 2
    covariance_a, covariance_b = (
        covariance_loss(z, normalize_columns=variant == "vibcreg") for z in (z_a, z_b)
    )
    covariance = covariance_a + covariance_b
    loss = lambda_param * invariance + mu_param * variance + nu_param * covariance
    terms = (x.detach() for x in (invariance, variance, covariance))
    return (loss, VICRegTerms(*terms)) if return_terms else loss


def invariance_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean squared difference of all elements."""
    return F.mse_loss(to_working_dtype(z_a), to_working_dtype(z_b))


def variance_loss(z: Tensor, *, eps: float = 1e-4) -> Tensor:
    """What the deviations of the columns of ``z`` (N, D) lack to 1; see `sslkern.variance_loss`."""
    return F.relu(1 - (to_working_dtype(z).var(0) + eps).sqrt()).mean()


def covariance_loss(z: Tensor, *, normalize_columns: bool = False) -> Tensor:
    """Squared covariances of the columns of ``z`` (N, D); see `sslkern.covariance_loss`."""
    z = to_working_dtype(z)
    centered = z - z.mean(0)
    if normalize_columns:
        unit = normalize_rows(centered.T)
        return off_diagonal(unit @ unit.T).square().mean()
    covariance = centered.T @ centered / (len(z) - 1)
    return off_diagonal(covariance).square().sum() / z.shape[1]
