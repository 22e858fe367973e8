"""Losses as modules."""

from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.linear_cross_entropy import LinearCrossEntropyLoss
from sslkern.losses.ntxent import NTXentLoss

__all__ = ["ClipLoss", "InfoNCELoss", "LinearCrossEntropyLoss", "NTXentLoss"]
