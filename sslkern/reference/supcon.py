"""Contrast by label: SupCon, DCL and uniformity, the definitions in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslkern.reference._common import normalize_rows, reduce_loss, to_working_dtype


def supcon_loss(
    z: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    *,
    variant: str = "out",
    base_temperature: float | None = None,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Contrast by label of each row of ``z`` with all others; see `sslkern.supcon_loss`."""
    z, labels = _rows_and_labels(z, labels)
    s, same = _similarities(z, labels, temperature, normalize)
    count = same.sum(1).to(s.dtype)
    if variant == "pairwise":
        over = _masked_lse(s, ~same)[:, None] - s.masked_fill(~same, 0)
        loss = torch.where(same, torch.logaddexp(over, torch.zeros_like(over)), 0).sum(1)
    else:
        everything = s.logsumexp(1)
        if variant == "out":
            inside = torch.where(same, s, 0).sum(1) / count
        else:
            inside = _masked_lse(s, same) - (count.log() if variant == "in" else 0)
        loss = everything - inside
    loss = torch.where(count > 0, loss, 0)
    if base_temperature is not None:
        loss = loss * (temperature / base_temperature)
    if reduction != "mean":
        return reduce_loss(loss, weight, reduction)
    terms = (count if variant == "pairwise" else count > 0).to(loss.dtype)
    weight = torch.ones_like(loss) if weight is None else weight.to(loss.dtype)
    total = (weight * terms).sum()
    return (weight * loss).sum() / torch.where(terms.any(), total, 1)


def dcl_loss(
    z_a: Tensor,
    z_b: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Contrast of views without the positive in the denominator; see `sslkern.dcl_loss`."""
    a, b = (to_working_dtype(z) for z in (z_a, z_b))
    if normalize:
        a, b = normalize_rows(a), normalize_rows(b)
    index = torch.arange(len(a), device=a.device).repeat(2)
    s, same = _similarities(torch.cat([a, b]), index, temperature, normalize=False)
    positive = torch.where(same, s, 0).sum(1)
    if weight_fn is not None:
        positive = positive * torch.cat([weight_fn(a, b), weight_fn(b, a)])
    return reduce_loss(_masked_lse(s, ~same) - positive, None, reduction)


def uniformity(x: Tensor, t: float | Tensor = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of the pairs of rows; see `sslkern.uniformity`."""
    x = normalize_rows(to_working_dtype(x))
    above = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    # |x - y|^2 of unit rows; as a product it is differentiable where rows coincide.
    exponents = -t * (2 - 2 * (x @ x.T)[above])
    return exponents.logsumexp(0) - exponents.new_tensor(len(exponents)).log()


def _rows_and_labels(z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (N, D) with a label each, from views (B, V, D) where they come as such."""
    if z.dim() == 3:
        batch, views = z.shape[:2]
        labels = torch.arange(batch, device=z.device) if labels is None else labels
        return z.flatten(0, 1), labels.repeat_interleave(views)
    if labels is None:
        raise ValueError("expected labels where z is not of shape (B, V, D)")
    return z, labels


def _similarities(
    z: Tensor, labels: Tensor, temperature: float | Tensor, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Similarities (N, N) with -inf on the diagonal, and which pairs share a label."""
    z = to_working_dtype(z)
    z = normalize_rows(z) if normalize else z
    scale = temperature.to(z.dtype) if isinstance(temperature, Tensor) else temperature
    diagonal = torch.eye(len(z), dtype=torch.bool, device=z.device)
    s = (z @ z.T / scale).masked_fill(diagonal, float("-inf"))
    return s, (labels[:, None] == labels[None, :]) & ~diagonal


def _masked_lse(s: Tensor, mask: Tensor) -> Tensor:
    """Per row: the log-sum-exp where the mask is, -inf (without a gradient) where it is empty."""
    empty = ~mask.any(1)
    s = torch.where(mask, s, float("-inf")).masked_fill(empty[:, None], 0)
    return s.logsumexp(1).masked_fill(empty, float("-inf"))
