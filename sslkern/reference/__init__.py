"""The definitions: every operator in short eager PyTorch, differentiable, in any dtype.

Tests, benchmarks and documentation compare against these functions and nothing else.
"""

from sslkern.reference.info_nce import clip_loss, info_nce_loss
from sslkern.reference.ntxent import ntxent_loss
from sslkern.reference.ressl import ressl_loss
from sslkern.reference.soft_cross_entropy import soft_cross_entropy

__all__ = ["clip_loss", "info_nce_loss", "ntxent_loss", "ressl_loss", "soft_cross_entropy"]
