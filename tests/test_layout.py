"""The shape of the repository: every row complete, every include legal, no stray names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"

NOT_ROWS = {"types", "machine", "query_key", "gram", "cuda", "entries", "packed"}
ROWS = sorted(p.stem for p in (CSRC / "contract").glob("*.h") if p.stem not in NOT_ROWS)
COLUMNS = [
    "csrc/contract/{}.h",
    "csrc/ops/{}.cpp",
    "csrc/cpu/{}.cpp",
    "sslkern/ops/{}.py",
    "sslkern/reference/{}.py",
    "sslkern/losses/{}.py",
    "sslkern/bench/{}.py",
    "tests/test_{}.py",
]

# Folder of csrc -> what its files may include: folders of csrc, and system headers by pattern.
INCLUDES = {
    "contract": ({"contract"}, r"cstdint"),
    "math": ({"math"}, r"cstdint"),
    "cpu": (
        {"contract", "math", "cpu"},
        r"cstdint|cstddef|cstdlib|cstring|utility|time\.h|omp\.h",
    ),
    # Kernels and launchers; entries.cpp alone knows the emulation's runtime, for its memory.
    "cuda": ({"contract", "math", "cuda", "platform"}, r"cstdint|type_traits"),
    "ops": ({"contract", "ops"}, r"ATen/.*|c10/.*|torch/library\.h|sys/mman\.h|dlfcn\.h|[a-z_]+"),
    # Standard headers; the rest only in the files of PLATFORM_ONLY.
    "platform": (
        {"platform", "math"},
        r"[a-z_]+|sys/mman\.h|dlfcn\.h|ucontext\.h|.*_interface(_defs)?\.h|cuda_.*",
    ),
}


def sources(folder: str) -> list[Path]:
    suffixes = {".h", ".cpp", ".cu", ".cuh"}
    return sorted(p for p in (CSRC / folder).rglob("*") if p.suffix in suffixes)


def test_tests_of_a_file_stay_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Which pytest-xdist does by the name; each worker would build what a file needs anew."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@tests/test_layout.py")


def test_there_are_rows() -> None:
    assert "ntxent" in ROWS


@pytest.mark.parametrize("row", ROWS)
def test_row_is_complete(row: str) -> None:
    missing = [c.format(row) for c in COLUMNS if not (ROOT / c.format(row)).exists()]
    assert not missing


@pytest.mark.parametrize("row", ROWS)
def test_cuda_cells_come_together(row: str) -> None:
    """Kernels, launchers, entries and their registration; or none of them."""
    kernels = (CSRC / "cuda" / f"{row}.cuh").exists()
    table = (CSRC / "contract" / "entries.h").read_text()
    entries = re.search(rf"X\({row}[_,]", table) is not None
    registered = "TORCH_LIBRARY_IMPL(sslkern, CUDA" in (CSRC / "ops" / f"{row}.cpp").read_text()
    assert kernels == (CSRC / "cuda" / f"{row}.cu").exists() == entries == registered


@pytest.mark.parametrize("folder", INCLUDES)
def test_includes_are_legal(folder: str) -> None:
    folders, system = INCLUDES[folder]
    bad = []
    for path in sources(folder):
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.M):
            own = kind == '"' and name.split("/")[0] in folders
            if not own and not (kind == "<" and re.fullmatch(system, name)):
                bad.append(f"{path.name}: {name}")
    assert not bad


# What GPUs need and g++ cannot read -> the files that have it. As for assembly, simd.h has an
# instruction of CPUs, and fiber.cpp changes stacks.
PLATFORM_ONLY = {
    r"<<<": {"platform/nvcc.h"},
    r"#\s*include\s*<cuda": {"platform/nvcc.h"},
    r"\b(__)?asm(__)?\b": {"platform/nvcc.h", "platform/simt/fiber.cpp", "cpu/simd.h"},
    r"\b__shared__\b": {"platform/nvcc.h"},
}


@pytest.mark.parametrize("pattern", PLATFORM_ONLY)
def test_what_is_of_gpus_stays_in_the_platform(pattern: str) -> None:
    code = {p: re.sub(r"//.*", "", p.read_text()) for f in INCLUDES for p in sources(f)}
    found = {str(p.relative_to(CSRC)) for p, text in code.items() if re.search(pattern, text)}
    assert found == PLATFORM_ONLY[pattern]


def test_kernels_see_the_platform_alone() -> None:
    """The runtime of the emulation is of simt.h and of tests; nvcc reads none of it."""
    for path in [*(CSRC / "cuda").glob("*.cu*"), CSRC / "cuda" / "launch.h"]:
        included = re.findall(r'#\s*include "(platform/[^"]+)"', path.read_text())
        assert set(included) <= {"platform/platform.h"}
    for name in ("nvcc.h", "platform.h"):
        included = re.findall(r'#\s*include "([^"]+)"', (CSRC / "platform" / name).read_text())
        assert not [i for i in included if i.startswith("platform/simt/")]


def test_every_folder_of_csrc_has_a_rule() -> None:
    assert {p.name for p in CSRC.iterdir() if p.is_dir()} == set(INCLUDES)


def test_references_import_torch_alone() -> None:
    """And the standard library's types and constants."""
    allowed = {"__future__", "collections", "math", "typing", "torch"}
    for path in (ROOT / "sslkern" / "reference").glob("*.py"):
        for module in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(), re.M):
            assert module.split(".")[0] in allowed or module.startswith("sslkern.reference")


def test_losses_do_not_touch_the_compiled_module() -> None:
    for path in (ROOT / "sslkern" / "losses").glob("*.py"):
        assert "_C" not in path.read_text()


def test_gradients_are_named_grad() -> None:
    """``grad_z``, never ``dz``."""
    pattern = re.compile(r"\bd(z|x|y|tau|loss)\b|\b(z|x|y|tau|loss)_grad\b")
    paths = [*CSRC.rglob("*.[hc]*"), *(ROOT / "sslkern").rglob("*.py")]
    assert not [p.name for p in paths if pattern.search(p.read_text())]


def test_kernels_do_not_abort_or_print() -> None:
    pattern = re.compile(r"\b(assert|printf|abort|exit)\s*\(")
    assert not [p.name for p in CSRC.rglob("*.*") if pattern.search(p.read_text())]
