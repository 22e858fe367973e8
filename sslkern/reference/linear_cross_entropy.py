"""Softmax cross entropy of a linear layer, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import to_working_dtype


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    softcap: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of ``input @ weight.T + bias``; see `sslkern.linear_cross_entropy`."""
    logits = to_working_dtype(input) @ to_working_dtype(weight).T
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    by_index = not target.is_floating_point()
    shape = input.shape[:-1]
    logits = logits.reshape(-1, logits.shape[-1])
    target = target.reshape(-1) if by_index else target.reshape(logits.shape).to(logits.dtype)
    class_weight = None if class_weight is None else class_weight.to(logits.dtype)
    rows = F.cross_entropy(
        logits,
        target,
        weight=class_weight,
        ignore_index=ignore_index if by_index else -100,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    if reduction == "none":
        return rows.reshape(shape)
    if reduction == "sum":
        return rows.sum()
    if not by_index:
        return rows.mean()
    valid = target != ignore_index
    shares = valid.to(rows.dtype)
    if class_weight is not None:
        shares = shares * class_weight[torch.where(valid, target, 0)]
    return rows.sum() / torch.where(valid.any(), shares.sum(), 1)
