"""The CUDA kernels as nvcc and ptxas make them: budgets, spills, the instructions meant."""

from __future__ import annotations

import re
import shutil

import cuda_static
import emulation
import pytest

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

# Of a tile product by matrix instructions: every kernel with one of these as its product.
MATRIX = re.compile(r"<(Bf16|F16|Tf32|Tf32x3)\b")


@pytest.mark.parametrize("architecture", emulation.ARCHITECTURES)
def test_every_kernel_is_within_its_budget(architecture: int) -> None:
    budgets = cuda_static.budgets()
    for used in cuda_static.usages(architecture):
        assert used.kernel in budgets, f"{used.kernel} is not in {cuda_static.BUDGETS.name}"
        registers, shared = budgets[used.kernel]
        assert used.registers <= registers, used
        assert used.shared <= shared, used
        assert used.spilled == used.stack == 0, used


def test_budgets_are_of_kernels_that_exist() -> None:
    kernels = {used.kernel for used in cuda_static.usages(80)}
    assert set(cuda_static.budgets()) == kernels


@pytest.mark.skipif(cuda_static.tool("nvdisasm") is None, reason="nvdisasm is not installed")
@pytest.mark.parametrize("architecture", emulation.ARCHITECTURES)
def test_machine_code_uses_the_instructions_that_are_meant(architecture: int) -> None:
    code = cuda_static.machine_code(architecture)
    assert code
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
