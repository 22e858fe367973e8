"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import (
    clip,
    composed,
    covariance,
    cross_correlation,
    dcl,
    in_batch,
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
    in_batch,
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

CASES: dict[str, Case] = {
    case.name: case for case in (*(module.CASE for module in _MODULES), *composed.CASES)
}

__all__ = ["CASES"]
