"""Fused kernels for self-supervised losses: same numbers, no N x N matrix."""

import sys as _sys

from sslkern import reference
from sslkern._version import __version__

try:
    from sslkern import integrations, losses
    from sslkern._build import build_config, fma_peak
    from sslkern._values import check_values
    from sslkern.metrics import alignment, contrastive_accuracy, rankme
    from sslkern.ops import (
        barlow_twins_loss,
        clip_loss,
        covariance_loss,
        dcl_loss,
        estimate_log_normalizer,
        frossl_loss,
        info_nce_loss,
        invariance_loss,
        koleo_loss,
        linear_cross_entropy,
        mmcr_loss,
        negative_sampling_loss,
        ntxent_loss,
        ressl_loss,
        sampled_logits,
        sampled_nce_loss,
        siglip_loss,
        sinkhorn,
        soft_cross_entropy,
        supcon_loss,
        swav_loss,
        tico_loss,
        uniformity,
        variance_loss,
        vicreg_loss,
        wmse_loss,
    )
except ImportError:
    # Without its compiled module the package is no use, but `python -m sslkern info` has to run in
    # order to say what is wrong. "-m" is what argv[0] holds while -m imports the package.
    if _sys.argv[:1] != ["-m"]:
        raise

__all__ = [
    "__version__",
    "alignment",
    "barlow_twins_loss",
    "build_config",
    "check_values",
    "clip_loss",
    "contrastive_accuracy",
    "covariance_loss",
    "dcl_loss",
    "estimate_log_normalizer",
    "fma_peak",
    "frossl_loss",
    "info_nce_loss",
    "integrations",
    "invariance_loss",
    "koleo_loss",
    "linear_cross_entropy",
    "losses",
    "mmcr_loss",
    "negative_sampling_loss",
    "ntxent_loss",
    "rankme",
    "reference",
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
