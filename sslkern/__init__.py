"""Fused kernels for self-supervised losses: same numbers, no N x N matrix."""

from sslkern import losses, reference
from sslkern._build import build_config, fma_peak
from sslkern._version import __version__
from sslkern.ops import ntxent_loss

__all__ = ["__version__", "build_config", "fma_peak", "losses", "ntxent_loss", "reference"]
