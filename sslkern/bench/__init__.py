"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import clip, info_nce, linear_cross_entropy, ntxent
from sslkern.bench.contenders import Case

CASES: dict[str, Case] = {
    case.name: case for case in (ntxent.CASE, info_nce.CASE, clip.CASE, linear_cross_entropy.CASE)
}

__all__ = ["CASES"]
