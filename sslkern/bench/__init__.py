"""Benchmarks that also run from an installed package: ``python -m sslkern bench``."""

from sslkern.bench import ntxent
from sslkern.bench.contenders import Case

CASES: dict[str, Case] = {"ntxent": ntxent.CASE}

__all__ = ["CASES"]
