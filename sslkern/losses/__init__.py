"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.siglip import SigLipLoss

__all__ = ["ClipLoss", "InfoNCELoss", "NTXentLoss", "SigLipLoss"]
