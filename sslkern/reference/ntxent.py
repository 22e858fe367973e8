"""NT-Xent, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import normalize_rows, reduce_loss, to_working_dtype


def ntxent_loss(
    z_a: Tensor,
    z_b: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of each of the 2B rows with its partner; see `sslkern.ntxent_loss`."""
    z = to_working_dtype(torch.cat([z_a, z_b]))
    if normalize:
        z = normalize_rows(z)
    rows, batch = z.shape[0], z_a.shape[0]
    # Scale first, mask second: the other order multiplies -inf by 0 in the temperature gradient.
    s = (z @ z.T / temperature).masked_fill(
        torch.eye(rows, dtype=torch.bool, device=z.device), float("-inf")
    )
    partner = torch.arange(rows, device=z.device).roll(batch)
    loss = F.cross_entropy(s, partner, reduction="none")
    if weight is not None and weight.shape[0] == batch:
        weight = torch.cat([weight, weight])  # one weight per pair serves both of its rows
    return reduce_loss(loss, weight, reduction)
