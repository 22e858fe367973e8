"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import clip, dcl, info_nce, ntxent, supcon
from sslkern.bench.contenders import Case

CASES: dict[str, Case] = {
    case.name: case for case in (ntxent.CASE, info_nce.CASE, clip.CASE, supcon.CASE, dcl.CASE)
}

__all__ = ["CASES"]
