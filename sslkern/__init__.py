"""Fused kernels for self-supervised losses: same numbers, no N x N matrix."""

import sys as _sys

from sslkern import reference
from sslkern._version import __version__

try:
    from sslkern import losses
    from sslkern._build import build_config, fma_peak
    from sslkern.ops import clip_loss, dcl_loss, info_nce_loss, ntxent_loss, supcon_loss, uniformity
except ImportError:
    # Without its compiled module the package is no use, but `python -m sslkern info` has to run in
    # order to say what is wrong. "-m" is what argv[0] holds while -m imports the package.
    if _sys.argv[:1] != ["-m"]:
        raise

__all__ = [
    "__version__",
    "build_config",
    "clip_loss",
    "dcl_loss",
    "fma_peak",
    "info_nce_loss",
    "losses",
    "ntxent_loss",
    "reference",
    "supcon_loss",
    "uniformity",
]
