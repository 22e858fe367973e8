"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import (
    clip,
    covariance,
    cross_correlation,
    dcl,
    info_nce,
    linear_cross_entropy,
    ntxent,
    sampled_logits,
    siglip,
    sinkhorn,
    soft_cross_entropy,
    supcon,
    swapped_prediction,
)
from sslkern.bench.contenders import Case

_MODULES = (
    ntxent,
    info_nce,
    clip,
    siglip,
    supcon,
    dcl,
    linear_cross_entropy,
    soft_cross_entropy,
    sampled_logits,
    sinkhorn,
    swapped_prediction,
    cross_correlation,
    covariance,
)

CASES: dict[str, Case] = {module.CASE.name: module.CASE for module in _MODULES}

__all__ = ["CASES"]
