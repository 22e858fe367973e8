"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.info_nce import clip_loss, info_nce_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.ops.sampled_logits import (
    estimate_log_normalizer,
    negative_sampling_loss,
    sampled_logits,
    sampled_nce_loss,
)

__all__ = [
    "clip_loss",
    "estimate_log_normalizer",
    "info_nce_loss",
    "negative_sampling_loss",
    "ntxent_loss",
    "sampled_logits",
    "sampled_nce_loss",
]
