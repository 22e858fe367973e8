"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.supcon import (
    DCLLoss,
    DCLWLoss,
    SupConLoss,
    negative_mises_fisher_weights,
)

__all__ = [
    "ClipLoss",
    "DCLLoss",
    "DCLWLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SupConLoss",
    "negative_mises_fisher_weights",
]
