"""A sample of mutants of the kernels' PTX: each must be noticed. All of them: tests/mutation.py."""

from __future__ import annotations

import random
import re
from collections import Counter

import emulation
import mutants
import mutation
import pytest
from kernel_cases import TF32, Case
from mutants import MUST_DIE

pytestmark = pytest.mark.skipif(
    emulation.missing("ptx") is not None, reason=str(emulation.missing("ptx"))
)


def test_mutations_of_ptx() -> None:
    assert list(mutants._mutations("bar.sync \t0;")) == [("barrier", "")]
    assert list(mutants._mutations("setp.lt.s32 \t%p1, %r1, %r2;")) == [
        ("bound", "setp.le.s32 \t%p1, %r1, %r2;")
    ]
    assert list(mutants._mutations("shfl.sync.bfly.b32 \t%r1|%p1, %r2, 16, 31, -1;")) == [
        ("shuffle", "mov.b32 %r1, %r2;")
    ]
    (matrix,) = mutants._mutations("mma.sync.x {%f1}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1};")
    assert matrix == ("matrix", "mma.sync.x {%f1}, {%r1,%r3,%r2,%r4}, {%r5,%r6}, {%f1};")
    assert not list(mutants._mutations("add.s32 \t%r1, %r2, 1;"))


def test_a_sample_of_each_kernel_and_kind() -> None:
    packed = [path for path in emulation.ptx_files() if "pack_rows_kernel" in path.read_text()]
    kernels = re.findall(r"^\.visible \.entry (\w+)\(", packed[0].read_text(), re.MULTILINE)
    every = [mutant for kernel in kernels[:2] for mutant in mutants.mutants(kernel)]
    counts = Counter((mutant.kernel, mutant.kind) for mutant in every)
    chosen = mutation.some_of_each(every, 2, random.Random(1))
    assert len({(m.kernel, m.kind, m.place) for m in chosen}) == len(chosen)
    assert Counter((m.kernel, m.kind) for m in chosen) == {k: min(n, 2) for k, n in counts.items()}


def test_no_mutant_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no kernel has such mutants"):
        mutation.run(["ntxent"], "no_such_kernel", MUST_DIE, dtypes=["bfloat16"])


def test_cheap_cases_give_way_to_those_that_kill() -> None:
    case = Case("", "", (1, 1), bool)
    cheap, dear = mutation.Attempt(case, 1.0), mutation.Attempt(case, 5.0)
    assert cheap.seconds_of_a_kill < dear.seconds_of_a_kill
    cheap.times = dear.times = dear.kills = 10
    assert cheap.seconds_of_a_kill > dear.seconds_of_a_kill


@pytest.mark.parametrize("kind", MUST_DIE)
def test_mutants_are_noticed(kind: str) -> None:
    """Of the kernels of NT-Xent in bfloat16, which have every kind."""
    assert mutation.run(["ntxent"], "<Bf16", [kind], sample=3, seed=1, dtypes=["bfloat16"]) == []


def test_mutants_of_rounded_products_are_noticed() -> None:
    """Which no dtype of tensors asks for, but torch's settings."""
    kinds = ["matrix", "shuffle"]
    assert mutation.run(["ntxent"], "<Tf32,", kinds, sample=4, dtypes=[TF32]) == []
