"""The definitions: every operator in short eager PyTorch, differentiable, in any dtype.

Tests, benchmarks and documentation compare against these functions and nothing else.
"""

from sslkern.reference.covariance import (
    VICRegTerms,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)
from sslkern.reference.cross_correlation import BarlowTwinsTerms, barlow_twins_loss
from sslkern.reference.frossl import frossl_loss
from sslkern.reference.info_nce import clip_loss, contrastive_accuracy, info_nce_loss
from sslkern.reference.koleo import koleo_loss
from sslkern.reference.linear_cross_entropy import linear_cross_entropy
from sslkern.reference.mmcr import mmcr_loss
from sslkern.reference.ntxent import ntxent_loss
from sslkern.reference.ressl import ressl_loss
from sslkern.reference.sampled_logits import (
    negative_sampling_loss,
    sampled_logits,
    sampled_nce_loss,
)
from sslkern.reference.siglip import siglip_loss
from sslkern.reference.sinkhorn import sinkhorn
from sslkern.reference.soft_cross_entropy import soft_cross_entropy
from sslkern.reference.supcon import dcl_loss, supcon_loss, uniformity
from sslkern.reference.swapped_prediction import swav_loss
from sslkern.reference.tico import tico_loss
from sslkern.reference.wmse import wmse_loss

__all__ = [
    "BarlowTwinsTerms",
    "VICRegTerms",
    "barlow_twins_loss",
    "clip_loss",
    "contrastive_accuracy",
    "covariance_loss",
    "dcl_loss",
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
