"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import clip, info_nce, ntxent, soft_cross_entropy
from sslkern.bench.contenders import Case

CASES: dict[str, Case] = {
    case.name: case for case in (ntxent.CASE, info_nce.CASE, clip.CASE, soft_cross_entropy.CASE)
}

__all__ = ["CASES"]
