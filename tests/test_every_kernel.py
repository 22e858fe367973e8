"""Every kernel's PTX against the references, in each dtype and form, where other tests take a few.

That none is left out, unlaunched.py sees to. No launch may ask for more dynamic shared memory than
its kernel's budget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import product

import cuda_static
import emulation
import pytest
from kernel_cases import SIZES_OF, TF32, Case, cases_of, parted_cases_of
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


OPS = ops_of(FORMS)
EVERY = [*product(OPS, DTYPES), *product(ops_of(FORMS_OF_PRODUCTS), [TF32])]


def from_small_to_large(op: str, dtype: str) -> list[Case]:
    """One of each form and size: of how rows are scaled kernels do not depend. And in parts."""
    sizes = sorted(SIZES_OF.get(op, SIZES), key=lambda size: size[0] * size[1])
    first: dict[object, Case] = {}
    for case in cases_of(op, [dtype], sizes):
        first.setdefault((case.size, case.form), case)
    ordered = sorted(first.values(), key=lambda case: sizes.index(case.size))
    return [*ordered, *parted_cases_of(op, dtype)]


def check(case: Case) -> None:
    with sslkern.check_values(False):  # samples may be of no row of the table
        assert case.passes(), case.about


def every_launch(ops: Collection[str] = OPS) -> Iterator[emulation.Recorded]:
    """By all cases, for a process of its own: of the kernels next to nothing is executed.

    How they are launched does not depend on results.
    """
    library = emulation.library("ptx")
    library.most_steps(1)
    library.start()
    for op, dtype in EVERY:
        for case in from_small_to_large(op, dtype) if op in ops else ():
            yield from library.launches_by(case.passes)
            library.findings()
    library.stop()


def most_dynamic_bytes(launches: Iterable[emulation.Recorded]) -> dict[str, int]:
    """That a launch asks for, by the kernels' short names."""
    most: dict[str, int] = {}
    for launch in launches:
        most[launch.kernel] = max(most.get(launch.kernel, 0), launch.dynamic_bytes)
    return dict(zip(cuda_static.demangled(most), most.values(), strict=True))


@pytest.mark.parametrize(("op", "dtype"), EVERY)
def test_kernels_match_the_references(op: str, dtype: str, backend: str) -> None:
    """Forms that launch nothing new in the first size are not tried in larger ones."""
    library = emulation.library(backend)
    launches: list[emulation.Recorded] = []
    idle: set[str] = set()
    cases = from_small_to_large(op, dtype)
    for case in cases:
        if case.form in idle:
            continue
        found = library.launches_by(partial(check, case))
        new = {x.kernel for x in found} - {x.kernel for x in launches}
        if case.size == cases[0].size and not new:
            idle.add(case.form)
        launches += found
    assert launches
    budgets = cuda_static.budgets()
    for kernel, dynamic in most_dynamic_bytes(launches).items():
        assert dynamic <= budgets[kernel].dynamic, kernel
