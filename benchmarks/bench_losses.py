"""Every loss under pytest-benchmark, for ``--benchmark-compare`` between two states of the code.

    pytest benchmarks/bench_losses.py -k ntxent --benchmark-save before

Same inputs and contenders as ``python -m sslkern bench``, which alternates between contenders and
is the better judge of who is faster; here one contender is compared with itself over time. Whether
a loss has become slower than the committed ratios say is the question of ``bench_ratios.py``.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sslkern.bench import CASES
from sslkern.bench.contenders import Case, Contender, Size, UnavailableError


def runs() -> list[object]:
    """Each contender of each loss at each of its default sizes."""
    return [
        pytest.param(case, size, contender, id=f"{case.name}-{size}-{contender.name}")
        for case in CASES.values()
        for size in case.default_sizes
        for contender in case.contenders
    ]


@pytest.mark.parametrize(("case", "size", "contender"), runs())
def test_loss(benchmark: BenchmarkFixture, case: Case, size: Size, contender: Contender) -> None:
    """Forward and backward, if there is one, in float32."""
    if contender.compiles:
        torch._dynamo.reset()
    try:
        step = contender.prepare(case.problem(size, torch.float32))
    except UnavailableError as reason:
        pytest.skip(str(reason))
    step()  # compiles, starts threads
    benchmark.group = f"{case.name} {size}"
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
