"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.ntxent import NTXentLoss

__all__ = ["ClipLoss", "InfoNCELoss", "NTXentLoss"]
