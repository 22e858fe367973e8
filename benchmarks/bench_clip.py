"""The loss of CLIP under pytest-benchmark, for ``--benchmark-compare`` between two states.

    pytest benchmarks/bench_clip.py --benchmark-save before

Same inputs and contenders as ``python -m sslkern bench --loss clip``, which alternates between
contenders and is the better judge of who is faster; here one contender is compared with itself over
time.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sslkern.bench.clip import CASE
from sslkern.bench.contenders import Contender, Size, UnavailableError

SIZES = (Size(1024, 128), *CASE.default_sizes)


@pytest.mark.parametrize("contender", CASE.contenders, ids=lambda c: c.name)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clip(benchmark: BenchmarkFixture, size: Size, contender: Contender) -> None:
    """Forward and backward in float32."""
    if contender.compiles:
        torch._dynamo.reset()
    try:
        step = contender.prepare(CASE.problem(size, torch.float32))
    except UnavailableError as reason:
        pytest.skip(str(reason))
    step()  # compiles, starts threads
    benchmark.group = f"clip {size}"
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
