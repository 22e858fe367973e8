"""Sampled logits, negative sampling and noise-contrastive estimation, the eager definitions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import reduce_loss, to_working_dtype


def sampled_logits(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Inner products of each query with the rows of its index; see `sslkern.sampled_logits`."""
    rows = to_working_dtype(F.embedding(index, table))  # the N x K x D gather
    return (rows @ to_working_dtype(query)[:, :, None]).squeeze(2)


def negative_sampling_loss(
    query: Tensor,
    table: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Logistic loss of a positive and its negatives; see `sslkern.negative_sampling_loss`."""
    logits = sampled_logits(query, table, torch.cat([positive[:, None], negative], dim=1))
    loss = -F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1:]).sum(1)
    return reduce_loss(loss, weight, reduction)


def sampled_nce_loss(
    query: Tensor,
    table: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    log_normalizer: float | Tensor | None = None,
    noise_probability: float | Tensor | None = None,
    eps: float = 0.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of telling data from noise; see `sslkern.sampled_nce_loss`."""
    index = torch.cat([positive[:, None], negative], dim=1)
    logits = sampled_logits(query, table, index)
    s = logits / _like(temperature, logits)
    if log_normalizer is None:
        rows_per_sample = s.new_tensor(len(table) / s.numel())
        log_normalizer = s.detach().flatten().logsumexp(0) + rows_per_sample.log()
    log_p = s - _like(log_normalizer, s)
    noise = _like(1 / len(table) if noise_probability is None else noise_probability, s)
    # K P_n, and the logarithm of what both posteriors divide by, P + K P_n + eps.
    scaled = negative.shape[1] * (noise[index] if noise.numel() > 1 else noise.expand_as(s))
    log_sum = torch.logaddexp(log_p, (scaled + eps).log())
    loss = (log_sum - log_p)[:, 0] + (log_sum - scaled.log())[:, 1:].sum(1)
    return reduce_loss(loss, weight, reduction)


def _like(value: float | Tensor, z: Tensor) -> Tensor:
    """A parameter in the dtype of ``z`` and on its device."""
    return torch.as_tensor(value, dtype=z.dtype, device=z.device)
