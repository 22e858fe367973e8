"""The definitions: every operator in short eager PyTorch, differentiable, in any dtype.

Tests, benchmarks and documentation compare against these functions and nothing else.
"""

from sslkern.reference.info_nce import clip_loss, info_nce_loss
from sslkern.reference.ntxent import ntxent_loss
from sslkern.reference.siglip import siglip_loss

__all__ = ["clip_loss", "info_nce_loss", "ntxent_loss", "siglip_loss"]
