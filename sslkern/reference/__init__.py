"""The definitions: every operator in short eager PyTorch, differentiable, in any dtype.

Tests, benchmarks and documentation compare against these functions and nothing else.
"""

from sslkern.reference.info_nce import clip_loss, info_nce_loss
from sslkern.reference.ntxent import ntxent_loss
from sslkern.reference.sampled_logits import (
    negative_sampling_loss,
    sampled_logits,
    sampled_nce_loss,
)

__all__ = [
    "clip_loss",
    "info_nce_loss",
    "negative_sampling_loss",
    "ntxent_loss",
    "sampled_logits",
    "sampled_nce_loss",
]
