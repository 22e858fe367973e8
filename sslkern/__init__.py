"""Fused kernels for self-supervised losses: same numbers, no N x N matrix."""

import sys as _sys
import typing as _typing

from sslkern import reference
from sslkern._version import __version__

if _typing.TYPE_CHECKING:
    from sslkern import integrations, losses
    from sslkern import methods as methods

try:
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

_ON_FIRST_USE = ("integrations", "losses", "methods")

if not _typing.TYPE_CHECKING:  # else type checkers would take any name

    def __getattr__(name: str) -> object:
        """Import, when it is asked for, what the operators do without: it takes longest."""
        if name in _ON_FIRST_USE:
            from importlib import import_module

            return import_module(f"sslkern.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
