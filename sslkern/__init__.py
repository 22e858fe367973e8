"""Fused kernels for self-supervised losses: same numbers, no N x N matrix."""

from sslkern import reference
from sslkern._version import __version__

__all__ = ["__version__", "reference"]
