"""The CUDA kernels as nvcc and ptxas make them: budgets, spills, the instructions meant."""

from __future__ import annotations

import re
from collections import Counter

import cuda_static
import emulation
import pytest

pytestmark = pytest.mark.skipif(
    cuda_static.missing() is not None, reason=str(cuda_static.missing())
)

# Of a tile product by matrix instructions: every kernel with one of these as its product.
MATRIX = re.compile(r"<(Bf16|F16|Tf32|Tf32x3)\b")


@pytest.mark.parametrize("architecture", emulation.ARCHITECTURES)
def test_every_kernel_is_within_its_budget(architecture: int) -> None:
    budgets = cuda_static.budgets()
    used_by = cuda_static.usages()
    if architecture not in used_by:
        pytest.skip(f"not built for sm_{architecture}")
    for used in used_by[architecture]:
        assert used.kernel in budgets, f"{used.kernel} is not in {cuda_static.BUDGETS.name}"
        budget = budgets[used.kernel]
        assert used.registers <= budget.registers, used
        assert used.shared <= budget.static, used
        assert used.shared + budget.dynamic <= cuda_static.SHARED_BYTES, used
        assert used.stack == used.local == 0, used


def test_budgets_are_of_kernels_that_exist() -> None:
    for used in cuda_static.usages().values():
        assert {x.kernel for x in used} == set(cuda_static.budgets())


def test_there_is_one_ptx_and_machine_code_of_it_for_each_architecture() -> None:
    """What tests execute of the PTX is then what every machine code is made of."""
    named = re.compile(r"\.(sm_\d+)\.(?:ptx|cubin)$", re.MULTILINE)
    ptx = named.findall(cuda_static.output_of("cuobjdump", "-lptx", cuda_static.LIBRARY))
    codes = named.findall(cuda_static.output_of("cuobjdump", "-lelf", cuda_static.LIBRARY))
    assert Counter(ptx) == {f"sm_{emulation.ARCHITECTURES[0]}": len(emulation.KERNELS)}
    assert Counter(codes) == {f"sm_{n}": len(emulation.KERNELS) for n in emulation.ARCHITECTURES}


@pytest.mark.parametrize("number", range(len(emulation.ARCHITECTURES)))
def test_machine_code_uses_the_instructions_that_are_meant(number: int) -> None:
    """Of each kernel on one of the architectures, for the PTX is the same."""
    architecture = emulation.ARCHITECTURES[number]
    if architecture not in cuda_static.usages():
        pytest.skip(f"not built for sm_{architecture}")
    every = sorted(used.kernel for used in cuda_static.usages()[architecture])
    kernels = every[number :: len(emulation.ARCHITECTURES)]
    code = cuda_static.machine_code(architecture, kernels)
    assert sorted(code) == kernels
    for kernel, text in code.items():
        assert not re.search(r"\b(LDL|STL)\b", text), f"{kernel} uses local memory"
        if MATRIX.search(kernel):
            assert "HMMA" in text, f"{kernel} has no matrix instruction"
            assert "LDSM" in text, f"{kernel} loads fragments element by element"
            assert re.search(r"LDGSTS\.\S*128", text), f"{kernel} does not copy asynchronously"
        if re.match(r"(ntxent|info_nce|supcon)\w+<(Bf16|F16|Tf32)", kernel):
            assert re.search(r"LDG\.\S*128", text), f"{kernel} does not load vectors"
        if re.match(r"ntxent_tiles_kernel<(Bf16|F16)", kernel):
            assert re.search(r"STG\.\S*128", text), f"{kernel} does not store vectors"
