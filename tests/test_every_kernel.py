"""Every kernel's PTX against the references, in each dtype and form, where other tests take a few.

That none is left out, unlaunched.py sees to. No launch may ask for more dynamic shared memory than
its kernel's budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import product

import cuda_static
import emulation
import pytest
from kernel_cases import SIZES_OF, TF32, Case, cases_of
from test_schedules import COMPOSED
from test_tf32 import FORMS_OF_PRODUCTS

import sslkern
from sslkern.cli.arguments import DTYPES
from sslkern.verification.forms import FORMS, Form

BACKENDS = ("ptx",)

# One tile of rows of one chunk, of two and of many.
SIZES = ((120, 60), (120, 127), (120, 264))
SHARING = {"clip", "dcl", "ressl", "uniformity"}
"""Operators that launch kernels of others, and none else."""


def ops_of(forms: Iterable[Form]) -> list[str]:
    ops = dict.fromkeys(form.op for form in forms if form.function not in COMPOSED)
    return [op for op in ops if op not in SHARING]


EVERY = [*product(ops_of(FORMS), DTYPES), *product(ops_of(FORMS_OF_PRODUCTS), [TF32])]


def from_small_to_large(op: str, dtype: str) -> list[Case]:
    """One of each form and size: of how rows are scaled kernels do not depend."""
    sizes = sorted(SIZES_OF.get(op, SIZES), key=lambda size: size[0] * size[1])
    first: dict[object, Case] = {}
    for case in cases_of(op, [dtype], sizes):
        first.setdefault((case.size, case.form), case)
    return sorted(first.values(), key=lambda case: sizes.index(case.size))


def check(case: Case) -> None:
    with sslkern.check_values(False):  # samples may be of no row of the table
        assert case.passes(), case.about


def add_dynamic_bytes(most: dict[str, int], launches: Iterable[emulation.Recorded]) -> None:
    for launch in launches:
        most[launch.kernel] = max(most.get(launch.kernel, 0), launch.dynamic_bytes)


def most_dynamic_bytes() -> dict[str, int]:
    """That a launch of any case asks for, by kernel.

    Of the kernels next to nothing is executed: how they are launched does not depend on results.
    """
    library = emulation.library("ptx")
    library.most_steps(1)
    library.start()
    most: dict[str, int] = {}
    for op, dtype in EVERY:
        for case in from_small_to_large(op, dtype):
            add_dynamic_bytes(most, library.launches_by(case.passes))
            library.findings()
    library.stop()
    return dict(zip(cuda_static.demangled(most), most.values(), strict=True))


@pytest.mark.parametrize(("op", "dtype"), EVERY)
def test_kernels_match_the_references(op: str, dtype: str, backend: str) -> None:
    """Forms that launch nothing new in the first size are not tried in larger ones."""
    library = emulation.library(backend)
    asked: dict[str, int] = {}
    idle: set[str] = set()
    cases = from_small_to_large(op, dtype)
    for case in cases:
        if case.form in idle:
            continue
        launches = library.launches_by(partial(check, case))
        if case.size == cases[0].size and asked.keys() >= {x.kernel for x in launches}:
            idle.add(case.form)
        add_dynamic_bytes(asked, launches)
    assert asked
    budgets = cuda_static.budgets()
    for name, dynamic in zip(cuda_static.demangled(asked), asked.values(), strict=True):
        assert dynamic <= budgets[name].dynamic, name
