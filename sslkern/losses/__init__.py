"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.sampled_logits import NegativeSamplingLoss, SampledNCELoss

__all__ = [
    "ClipLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "NegativeSamplingLoss",
    "SampledNCELoss",
]
