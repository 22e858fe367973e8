"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.ressl import ReSSLLoss
from sslkern.losses.siglip import SigLipLoss
from sslkern.losses.soft_cross_entropy import SoftCrossEntropyLoss

__all__ = [
    "ClipLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "ReSSLLoss",
    "SigLipLoss",
    "SoftCrossEntropyLoss",
]
