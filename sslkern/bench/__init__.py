"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import clip, info_nce, ntxent, sampled_logits
from sslkern.bench.contenders import Case

CASES: dict[str, Case] = {
    case.name: case for case in (ntxent.CASE, info_nce.CASE, clip.CASE, sampled_logits.CASE)
}

__all__ = ["CASES"]
