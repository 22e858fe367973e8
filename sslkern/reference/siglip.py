"""SigLIP, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import reduce_loss, to_working_dtype


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    negative_only: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross entropy of every image with every text; see `sslkern.siglip_loss`."""
    image, text = to_working_dtype(image_features), to_working_dtype(text_features)
    s = torch.as_tensor(logit_scale, dtype=image.dtype, device=image.device) * image @ text.T
    if logit_bias is not None:
        s = s + torch.as_tensor(logit_bias, dtype=s.dtype, device=s.device)
    label = -torch.ones_like(s)
    if not negative_only:
        label = label + 2 * torch.eye(*s.shape, dtype=s.dtype, device=s.device)
    return reduce_loss(-F.logsigmoid(label * s).sum(1), weight, reduction)
