"""Barlow Twins, the definition in eager PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkern.reference._common import to_working_dtype


class BarlowTwinsTerms(NamedTuple):
    """What the loss is the sum of, without weights and without gradient."""

    on_diagonal: Tensor
    off_diagonal: Tensor


def barlow_twins_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = 5e-3,
    *,
    eps: float = 1e-5,
    scale: float = 1.0,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, BarlowTwinsTerms]:
    """Distance of the cross-correlation from the identity; see `sslkern.barlow_twins_loss`."""
    a, b = (standardize_columns(to_working_dtype(z), eps) for z in (z_a, z_b))
    c = a.T @ b / len(a)
    on = (c.diagonal() - 1).square().sum()
    off = off_diagonal(c).square().sum()
    loss = scale * (on + lambda_param * off)
    return (loss, BarlowTwinsTerms(on.detach(), off.detach())) if return_terms else loss


def standardize_columns(z: Tensor, eps: float) -> Tensor:
    """Shift and scale each column of ``z`` (N, D) to mean 0 and biased variance var/(var + eps)."""
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) / (variance + eps).sqrt()


def off_diagonal(c: Tensor) -> Tensor:
    """A square matrix with zeros on its diagonal."""
    return c.masked_fill(torch.eye(len(c), dtype=torch.bool, device=c.device), 0.0)
