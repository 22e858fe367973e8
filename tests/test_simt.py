"""The emulation of CUDA in csrc/platform: planted faults are reported, faultless kernels are not.

tests/simt/planted.cuh holds the kernels, tests/simt/units.cu the instructions one by one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simt_build
import torch

FOLDER = Path(__file__).parent / "simt"
KERNELS = (FOLDER / "planted.cuh").read_text()
RAGGED = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127)

# A seed and the number of an order of csrc/platform/simt/runtime.h: random ones, then forward,
# reverse and warp by warp.
SCHEDULES = [*((seed, 0) for seed in range(1, 6)), (1, 1), (1, 2), (1, 3)]


def fault_names() -> list[str]:
    enum = re.search(r"enum class Fault \{(.*?)\};", KERNELS, re.DOTALL)
    assert enum
    return re.findall(r"^ +(k\w+),", enum[1], re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """A planted fault, and what the emulation must make of it."""

    kernel: str
    name: str
    kinds: set[str]  # what must be found in check mode, whatever the schedule
    source: str  # of one line that the report of it must name; empty if it names none
    # Of a run that looks at the result alone: right, wrong, or that some schedules are right.
    # "undefined" where it depends on what lies in memory.
    result: str
    also: frozenset[str] = frozenset()  # kinds that may be found besides
    plain: frozenset[str] | None = None  # kinds that need no hooks; all by default
    asan: str = ""  # what a sanitizer says instead
    size: str = ""


def fault(kernel: str, name: str, kinds: str, source: str, result: str, **more: str) -> Fault:
    """Kinds are separated by commas."""
    plain = more.get("plain")
    return Fault(
        kernel,
        name,
        set(kinds.split(", ")) - {""},
        source,
        result,
        frozenset(more.get("also", "").split(", ")) - {""},
        None if plain is None else frozenset(plain.split(", ")) - {""},
        more.get("asan", ""),
        more.get("size", SIZES[kernel]),
    )


# Of a run: n, blocks, threads; or m, n, d.
SIZES = {
    "block_sum": "1000 3 256",
    "similarity": "100 90 96",
    "rotate": "1000 3 128",
    "fragments": "0 0 0",
}

OVERFLOW = "ERROR: AddressSanitizer: heap-buffer-overflow"
SUM, SIMILARITY, ROTATE, FRAGMENTS = SIZES
LOAD_SUMS = "sum = lane < warps ? warp_sums[lane]"
LOAD_B = "const unsigned b[2] ="
COPY = "platform::copy_async(tile_of("
COPY_ROW = "platform::copy_async(to, from, kFault"
READ_NEXT = "float value = values[thread - lane"

FAULTS = [
    fault(SUM, "kNoBarrier", "race", LOAD_SUMS, "some", also="uninitialised", plain=""),
    fault(
        SUM, "kReadBeyondEnd", "out of bounds", "sum += x[i]", "undefined", plain="", asan=OVERFLOW
    ),
    fault(
        SUM,
        "kWriteBeyondShared",
        "out of bounds",
        "if (lane == 0) warp_sums[",
        "wrong",
        also="uninitialised",
        plain="",
        asan="index 8 out of bounds for type 'float [8]'",
    ),
    fault(SUM, "kBarrierInBranch", "deadlock", "if (threadIdx.x < 128) __syncthreads", "wrong"),
    fault(SUM, "kReadUnwritten", "uninitialised", LOAD_SUMS, "wrong", plain="", size="1000 3 128"),
    fault(SUM, "kShuffleInBranch", "divergence", "kShuffleInBranch && lane < 16", "wrong"),
    fault(SUM, "kAddWithoutAtomic", "race", "*out += sum", "right", plain=""),
    fault(SUM, "kExitBeforeBarrier", "deadlock", "    __syncthreads();\n  }\n  if con", "wrong"),
    fault(SUM, "kTwoBarriers", "divergence", "      __syncthreads();\n    } else {", "right"),
    fault(SUM, "kShuffleFromOutside", "shuffle", "__shfl_sync(0xfu, sum, 9)", "wrong"),
    fault(
        SUM,
        "kInitialiseBesideAtomics",
        "race",
        "atomicAdd(warps_done, 1)",
        "right",
        also="uninitialised",
        plain="",
    ),
    fault(SUM, "kReadBesideAtomics", "race", "warps_done[0] > 8", "right", plain=""),
    fault(SIMILARITY, "kWaitForTooFew", "early read, lost copy", LOAD_B, "wrong", also="race"),
    fault(SIMILARITY, "kNoBarrierBeforeReuse", "race", COPY, "some", also="early read"),
    fault(SIMILARITY, "kNoCommit", "early read, lost copy", LOAD_B, "wrong", also="race"),
    fault(SIMILARITY, "kSwappedRegisters", "", "", "wrong"),
    fault(SIMILARITY, "kReadRowsBeyondEnd", "out of bounds", COPY, "wrong"),
    fault(
        SIMILARITY,
        "kNoBarrierAfterWait",
        "race, early read",
        "platform::load_matrix_x4(a, rows);",
        "wrong",
        also="uninitialised",
    ),
    fault(SIMILARITY, "kMisalignedCopy", "alignment", COPY, "wrong", also="uninitialised"),
    fault(SIMILARITY, "kEndBeforeWait", "lost copy", COPY, "wrong"),
    fault(ROTATE, "kNoSyncwarp", "race", READ_NEXT, "wrong", also="uninitialised", plain=""),
    fault(ROTATE, "kNoSyncwarpBeforeReuse", "race", "values[thread] = i < n", "wrong", plain=""),
    fault(ROTATE, "kSyncwarpOfHalves", "race", READ_NEXT, "some", also="uninitialised", plain=""),
    fault(
        ROTATE,
        "kLaneOutsideMask",
        "mask",
        "__syncwarp(mask);\n    }",
        "wrong",
        also="deadlock, race, uninitialised",
    ),
    fault(
        ROTATE,
        "kLaneThatIsNotThere",
        "mask",
        "__syncwarp(mask);\n    }",
        "wrong",
        also="uninitialised",
    ),
    fault(ROTATE, "kMismatchedCollectives", "divergence", "__shfl_sync(~0u, 0.0f, 0)", "wrong"),
    fault(ROTATE, "kBlocksWriteTheSame", "race", "out[0] = x[1]", "right", plain=""),
    fault(ROTATE, "kReadUnwrittenGlobal", "uninitialised", "value += out[i]", "wrong", plain=""),
    fault(
        ROTATE,
        "kWriteBeyondEnd",
        "out of bounds",
        "if (i < end) out[i] = value",
        "undefined",
        plain="",
        asan=OVERFLOW,
    ),
    fault(ROTATE, "kWriteStaticVariable", "out of bounds", "*elsewhere = value", "right", plain=""),
    fault(
        ROTATE,
        "kMisalignedVector",
        "alignment",
        "reinterpret_cast<const double*>",
        "right",
        plain="",
        asan="load of misaligned address",
    ),
    fault(ROTATE, "kTooManyThreads", "limits", "", "wrong"),
    fault(ROTATE, "kTooManyRowsOfBlocks", "limits", "", "wrong"),
    fault(ROTATE, "kTooMuchDynamicShared", "limits", "", "wrong"),
    fault(ROTATE, "kTooMuchShared", "limits", "", "wrong"),
    fault(FRAGMENTS, "kWriteWhileCopying", "race", "to[3] = from[3]", "right", plain=""),
    fault(FRAGMENTS, "kCopyTwice", "race", "copy_async(to, from, 8)", "wrong"),
    fault(FRAGMENTS, "kWriteSource", "race", COPY_ROW, "wrong"),
    fault(FRAGMENTS, "kWriteSourceAfterBarrier", "race", COPY_ROW, "wrong"),
    fault(FRAGMENTS, "kCopyTooMuch", "out of bounds", COPY_ROW, "wrong"),
    fault(FRAGMENTS, "kCopyToGlobal", "out of bounds", COPY_ROW, "wrong"),
    fault(
        FRAGMENTS,
        "kMisalignedMatrix",
        "alignment",
        "load_matrix_x4(a, rows + ",
        "wrong",
        also="uninitialised",
    ),
    fault(FRAGMENTS, "kMatrixInGlobal", "out of bounds", "load_matrix_x4(a, X", "wrong"),
    fault(FRAGMENTS, "kPartOfAWarp", "mask", "load_matrix_x4(a, rows + ", "wrong"),
    fault(FRAGMENTS, "kLeaveNewest", "early read, lost copy", "load_matrix_x4(a, rows + ", "wrong"),
]

by_fault = pytest.mark.parametrize(
    "planted", FAULTS, ids=[f"{f.kernel}-{f.name}-result_{f.result}" for f in FAULTS]
)


@dataclass(frozen=True)
class Run:
    """What a run of the driver has printed."""

    error: str
    findings: tuple[tuple[str, str], ...]
    counts: str

    @property
    def right(self) -> bool:
        return self.error == "0"

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.findings}


def parsed(text: str) -> Run:
    error, *findings, counts = text.splitlines()[1:]
    pairs = tuple((kind, rest) for kind, rest in (f.split(": ", 1) for f in findings))
    return Run(error.removeprefix("error: "), pairs, counts.removeprefix("counts: "))


@pytest.fixture(scope="session")
def drivers() -> dict[str, Path]:
    """The driver of the planted kernels, built in every mode."""
    parts = simt_build.parts([FOLDER / "planted.cu", FOLDER / "driver.cpp", *simt_build.RUNTIME])
    return {mode: simt_build.program("driver", mode, parts) for mode in simt_build.MODES}


@cache
def run(driver: Path, cases: tuple[str, ...]) -> tuple[list[Run], str]:
    """The runs of some cases in one process, as many as it lived for, and its error messages."""
    lines = "".join(f"{case}\n" for case in cases)
    done = subprocess.run([driver], input=lines, capture_output=True, text=True, timeout=120)
    runs = [parsed(text) for text in done.stdout.split("case: ")[1:]]
    assert (len(runs) == len(cases)) == (done.returncode == 0), done.stderr
    return runs, done.stderr


def cases_of(kernel: str, name: str, size: str, schedules: Iterable = SCHEDULES) -> tuple[str, ...]:
    number = fault_names().index(name)
    return tuple(f"{kernel} {number} {seed} {order} {size}" for seed, order in schedules)


def line_of(source: str) -> str:
    """As reports name the line of the kernels that ``source`` begins in."""
    before, found, after = KERNELS.partition(source)
    assert found
    assert source not in after
    return f"planted.cuh:{before.count(chr(10)) + 1}"


# ---- planted faults


def test_every_fault_is_expected() -> None:
    assert sorted(f.name for f in FAULTS) == sorted(set(fault_names()) - {"kNone"})
    runtime = (simt_build.ROOT / "csrc/platform/simt/runtime.h").read_text()
    kinds = set(re.findall(r"^//   ([a-z]+(?: [a-z]+)*)  +", runtime, re.MULTILINE))
    assert set().union(*(f.kinds for f in FAULTS)) == kinds


@by_fault
def test_fault_is_reported_with_its_kind_and_line(drivers: dict[str, Path], planted: Fault) -> None:
    runs, _ = run(drivers["check"], cases_of(planted.kernel, planted.name, planted.size))
    for one in runs:
        assert planted.kinds <= one.kinds <= planted.kinds | planted.also
    if planted.source:
        texts = [t for one in runs for kind, t in one.findings if kind in planted.kinds]
        assert any(line_of(planted.source) in text for text in texts)
    assert not any("524288" in text for one in runs for _, text in one.findings)


@by_fault
def test_fault_is_reported_without_hooks_too(drivers: dict[str, Path], planted: Fault) -> None:
    """Where it is one of an instruction; and the result is as wrong as the name of the test says.

    Without hooks, as an access that is out of bounds ends the launch with them.
    """
    runs, _ = run(drivers["plain"], cases_of(planted.kernel, planted.name, planted.size))
    expected = planted.kinds if planted.plain is None else planted.plain
    for one in runs:
        assert expected <= one.kinds <= expected | planted.also
    right = {one.right for one in runs}
    assert (
        right
        in {
            "right": [{True}],
            "wrong": [{False}],
            "some": [{True, False}],
            "undefined": [{True}, {False}, {True, False}],
        }[planted.result]
    )


@by_fault
def test_fault_under_the_sanitizers(drivers: dict[str, Path], planted: Fault) -> None:
    """They report what is theirs and end the program; all else is as without them."""
    cases = cases_of(planted.kernel, planted.name, planted.size, SCHEDULES[:1])
    runs, errors = run(drivers["asan"], cases)
    if planted.asan:
        assert not runs
        assert planted.asan in errors
    else:
        plain, _ = run(drivers["plain"], cases)
        assert [one.kinds for one in runs] == [one.kinds for one in plain]


def test_swapped_registers_show_in_the_result_alone(drivers: dict[str, Path]) -> None:
    cases = cases_of("similarity", "kSwappedRegisters", SIZES["similarity"])
    for one in run(drivers["check"], cases)[0]:
        assert not one.findings
        assert float(one.error) > 1


# ---- faultless kernels

SIZES_OF = {
    "block_sum": [f"{n} 3 {threads}" for n in RAGGED for threads in (32, 256)],
    "rotate": [f"{n} 3 {threads}" for n in RAGGED for threads in (32, 256)],
    "similarity": [
        f"{m} {n} {d}" for m, n in zip(RAGGED, RAGGED[::-1], strict=True) for d in (32, 96)
    ],
    "fragments": ["0 0 0"],
}


@pytest.mark.parametrize("kernel", SIZES_OF)
@pytest.mark.parametrize("mode", simt_build.MODES)
def test_faultless_kernels_are_right_and_nothing_is_found(
    drivers: dict[str, Path], mode: str, kernel: str
) -> None:
    cases = [case for size in SIZES_OF[kernel] for case in cases_of(kernel, "kNone", size)]
    runs, _ = run(drivers[mode], tuple(cases))
    assert len(runs) == len(cases)
    for case, one in zip(cases, runs, strict=True):
        assert not one.findings, case
        assert one.right, case


# ---- reproducible


def test_a_seed_is_a_run(drivers: dict[str, Path]) -> None:
    """In a process of its own and after others; another seed gives another one."""
    cases = cases_of("similarity", "kNoBarrierAfterWait", SIZES["similarity"])
    together, _ = run(drivers["check"], cases)
    for case, one in zip(cases, together, strict=True):
        alone, _ = run(drivers["check"], (case,))
        assert alone == [one]
    seeds = together[:5]
    first = {re.sub(r"seed \d+", "", one.findings[0][1]) for one in seeds}
    assert len(first) == len(seeds)


# ---- units

# The programs of units.cu, and how each is built; one whose fibers are the system's.
UNITS = {mode: (mode, ()) for mode in simt_build.MODES}
UNITS["ucontext"] = ("plain", ("-DSSLKERN_SIMT_UCONTEXT",))


@pytest.fixture(scope="session", params=UNITS)
def units(request: pytest.FixtureRequest) -> Path:
    mode, flags = UNITS[request.param]
    sources = [FOLDER / "units.cu", FOLDER / "units.cpp", *simt_build.RUNTIME]
    return simt_build.program(f"units-{request.param}", mode, simt_build.parts(sources, *flags))


def test_units_give_what_they_should(units: Path) -> None:
    for seed, order in SCHEDULES:
        command = [units, str(seed), str(order)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert len(lines.splitlines()) == 18
        assert all(line.endswith(": 0 wrong") for line in lines.splitlines()), lines


def some_floats() -> np.ndarray:
    """Random bit patterns, every float16, and the midpoints between two of both types."""
    random = np.random.default_rng(0).integers(0, 2**32, 50_000, dtype=np.uint64)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    around = halves.view(np.uint32).astype(np.uint64)
    parts = [random, *(around + offset for offset in (0, 0x0FFF, 0x1000, 0x1001, 0x8000))]
    return (np.concatenate(parts) % 2**32).astype(np.uint32)


def test_conversions_are_those_of_torch(units: Path) -> None:
    bits = some_floats()
    done = subprocess.run([units, "convert"], input=bits.tobytes(), check=True, capture_output=True)
    narrow, wide = done.stdout[: 4 * len(bits)], done.stdout[4 * len(bits) :]
    floats = torch.from_numpy(bits.view(np.float32).copy())
    every = torch.arange(65536).to(torch.int32).to(torch.int16)
    for i, dtype in enumerate((torch.bfloat16, torch.float16)):
        rounded = np.frombuffer(narrow, dtype=np.int16).reshape(2, -1)[i].copy()
        widened = np.frombuffer(wide, dtype=np.float32).reshape(2, -1)[i].copy()
        assert_same_floats(torch.from_numpy(rounded).view(dtype), floats.to(dtype))
        assert_same_floats(torch.from_numpy(widened), every.view(dtype).float())


def assert_same_floats(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Bitwise equal, except that any NaN equals any NaN."""
    assert torch.equal(actual.isnan(), expected.isnan())
    keep = ~expected.isnan()
    assert torch.equal(actual[keep].view(torch.int8), expected[keep].view(torch.int8))


# ---- the same kernels, by nvcc


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
@pytest.mark.parametrize("name", ["planted", "units"])
def test_kernels_compile_for_gpus_without_spills(
    name: str, architecture: int, tmp_path: Path
) -> None:
    command = ["nvcc", "-std=c++17", "-cubin", f"-arch=sm_{architecture}"]
    command += ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-Werror"]
    command += [f"-I{simt_build.ROOT / 'csrc'}", f"-I{FOLDER}"]
    command += ["-o", str(tmp_path / "cubin"), str(FOLDER / f"{name}.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert set(spills) == {("0", "0")}
    assert len(spills) == done.stderr.count("Compiling entry function")
