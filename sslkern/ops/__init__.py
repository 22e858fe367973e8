"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.covariance import covariance_loss, invariance_loss, variance_loss, vicreg_loss
from sslkern.ops.cross_correlation import barlow_twins_loss
from sslkern.ops.frossl import frossl_loss
from sslkern.ops.info_nce import clip_loss, info_nce_loss
from sslkern.ops.koleo import koleo_loss
from sslkern.ops.linear_cross_entropy import linear_cross_entropy
from sslkern.ops.mmcr import mmcr_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.ops.ressl import ressl_loss
from sslkern.ops.sampled_logits import (
    estimate_log_normalizer,
    negative_sampling_loss,
    sampled_logits,
    sampled_nce_loss,
)
from sslkern.ops.siglip import siglip_loss
from sslkern.ops.sinkhorn import sinkhorn
from sslkern.ops.soft_cross_entropy import soft_cross_entropy
from sslkern.ops.supcon import dcl_loss, supcon_loss, uniformity
from sslkern.ops.swapped_prediction import swav_loss
from sslkern.ops.tico import tico_loss
from sslkern.ops.wmse import wmse_loss

__all__ = [
    "barlow_twins_loss",
    "clip_loss",
    "covariance_loss",
    "dcl_loss",
    "estimate_log_normalizer",
    "frossl_loss",
    "info_nce_loss",
    "invariance_loss",
    "koleo_loss",
    "linear_cross_entropy",
    "mmcr_loss",
    "negative_sampling_loss",
    "ntxent_loss",
    "ressl_loss",
    "sampled_logits",
    "sampled_nce_loss",
    "siglip_loss",
    "sinkhorn",
    "soft_cross_entropy",
    "supcon_loss",
    "swav_loss",
    "tico_loss",
    "uniformity",
    "variance_loss",
    "vicreg_loss",
    "wmse_loss",
]
