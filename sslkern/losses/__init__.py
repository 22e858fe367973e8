"""Losses as modules."""

from sslkern.losses.ntxent import NTXentLoss

__all__ = ["NTXentLoss"]
