"""MMCR, the definition in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkern.reference._common import normalize_rows, to_working_dtype


def mmcr_loss(
    views: Tensor | Sequence[Tensor], *, lmda: float = 0.0, normalize: bool = True
) -> Tensor:
    """Nuclear norms of the centroids, maximised, and of each sample; see `sslkern.mmcr_loss`."""
    z = views if isinstance(views, Tensor) else torch.stack(list(views), dim=1)
    z = to_working_dtype(z)
    if normalize:
        z = normalize_rows(z.flatten(0, 1)).view(z.shape)
    spread: Tensor = torch.linalg.svdvals(z.mean(1)).sum()
    if lmda == 0:
        return -spread
    own: Tensor = torch.linalg.svdvals(z).sum(1).mean()
    return lmda * own - spread
