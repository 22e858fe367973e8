"""nvcc's PTX, executed on the CPU: real kernels, planted faults, mutants; and what is refused."""

from __future__ import annotations

import math
import os
import random
import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ptx_numbers import FORMATS, float_bits, float_of, signed, truncated
from ptx_run import (
    ARCHITECTURES,
    HEADER,
    kernel_text,
    needs_compiler,
    needs_nvcc,
    programs,
    ptx_of,
    run_file,
    unit,
)
from test_simt import FAULTS, Fault, cases_of, fault_names

pytestmark = needs_compiler


# ---- refusals

REFUSED = {
    "wgmma.fence.sync.aligned;": "opcode wgmma is not modelled",
    "activemask.b32 x;": "opcode activemask is not modelled",
    "add.f16 h, h, h;": "type .f16 is not modelled",
    "add.u8 h, h, h;": "type .u8 is not modelled",
    "add.rna.f32 x, x, x;": "modifier .rna is not modelled",
    "add.ftz.f64 y, y, y;": "no .ftz of .f64",
    "add.s32.extra x, x, x;": "modifier .extra is not modelled",
    "fma.f32 x, x, x, x;": "a rounding is missing",
    "max.xorsign.abs.f32 x, x, x;": "modifier .xorsign is not modelled",
    "max.f32 x, x, x, x;": "more operands than are modelled",
    "mad.lo.s32 x, x, x;": "an operand is missing",
    "ex2.approx.f16 h, h;": "opcode ex2 is not modelled",
    "setp.lt.b32 p, x, x;": "no such comparison of this type",
    "setp.lo.s32 p, x, x;": "no such comparison of this type",
    "setp.eq.f16 p, h, h;": "type .f16 is not modelled",
    "cvt.rn.relu.bf16.f32 h, x;": "modifier .relu is not modelled",
    "cvt.f32.f64 x, y;": "no such conversion is modelled",
    "cvt.rn.satfinite.e4m3x2.f32 h, x, x;": "modifier .satfinite is not modelled",
    "ld.volatile.global.u32 x, [y];": "modifier .volatile is not modelled",
    "ld.relaxed.gpu.global.u32 x, [y];": "modifier .relaxed is not modelled",
    "ld.global.b128 y, [y];": "modifier .b128 is not modelled",
    "ld.global.v8.b32 {x,x,x,x,x,x,x}, [y];": "expected a vector of 8 registers",
    "ld.shared.v8.b32 {x,x,x,x,x,x,x,x}, [y];": "vectors of more than 16 bytes",
    "ld.global.u64 x, [y];": "x is of .b32",
    "ld.global.u32 x, [x];": "x is of .b32, no address of this space",
    "ld.param.u64 y, [elsewhere];": "nothing is called elsewhere",
    "ld.param.u64 y, [in+4];": "beyond the parameter",
    "ld.param.u32 x, [in+8];": "beyond the parameter",
    "st.const.u32 [y], x;": "no stores there",
    "mov.u32 x, y;": "y is of .b64",
    "mov.u32 x, nobody;": "nothing is called nobody",
    "mov.f32 x, 1;": "an integer where .f32 is due",
    "add.s32 x, x, 0f3F800000;": "a real number where an integer is due",
    "atom.acquire.gpu.global.add.u32 x, [y], 1;": "modifier .acquire is not modelled",
    "atom.cta.global.add.u32 x, [y], 1;": "scope .cta is for .shared alone",
    "atom.global.add.noftz.bf16 h, [y], h;": "modifier .noftz is not modelled",
    "bar.sync 1;": "barriers other than 0 are not modelled",
    "bar.sync 0, 64;": "more operands than are modelled",
    "bar.red.or.pred p, 0, p;": "only with modifier .sync modelled",
    "shfl.up.b32 x, x, 1, 0;": "only with modifier .sync modelled",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {x}, {x}, {x}, {x};": "modifier .m16n8k32",
    "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {x}, {x}, {x}, {x};": "modifier .f32",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {x, x}, [x];": "expected a vector of 4 registers",
    "cp.async.cg.shared.global [x], [y], 8;": "no copy of that size",
    "cp.async.ca.shared.global.L2::cache_hint [x], [y], 8, 8, y;": "is not modelled",
    "cp.async.bulk.commit_group;": "modifier .bulk is not modelled",
    "call foo, (x);": "functions and their calls are not modelled",
    "bra nowhere;": "no label nowhere",
    "@x bra done;": "x is no predicate",
    ".reg .b128 z;": "type .b128 is not modelled",
    ".reg .b32 x;": "x is declared twice",
    ".branchtargets a;": "directive .branchtargets is not modelled",
}


@pytest.mark.parametrize("statement", REFUSED)
def test_what_is_not_modelled_is_refused(tmp_path: Path, statement: str) -> None:
    """When the text is read, with its line, even where it would not be executed."""
    registers = ".reg .b32 x; .reg .b64 y; .reg .b16 h; .reg .pred p;"
    text = kernel_text(registers, f"bra done;\n{statement}\ndone:")
    path = tmp_path / "refused.ptx"
    path.write_text(text)
    line = text.split(statement)[0].count("\n") + 1
    if statement == ".reg .b32 x;":
        line = text.rindex(statement)
        line = text[:line].count("\n") + 1
    result = unit(path, "unit", [], 1, 1)
    assert result.returncode == 3
    assert result.stderr.startswith(f"refused.ptx:{line}: ")
    assert REFUSED[statement] in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".func foo() { ret; }", ".func is not modelled"),
        (".visible .entry k() .explicitcluster { ret; }", "directive .explicitcluster"),
        (".extern .global .b32 x;", ".extern .global is not modelled"),
        (".global .b64 x = y;", "initial addresses are not modelled"),
        (".visible .entry k() { ret;", "expected a name, got the end of the text"),
        ("/* never closed", "a comment without end"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "refused.ptx"
    path.write_text(HEADER + text)
    result = unit(path, "unit", [], 1, 1)
    assert result.returncode == 3
    assert message in result.stderr


def test_kernels_are_found_by_a_part_of_their_name(tmp_path: Path) -> None:
    path = tmp_path / "x.ptx"
    path.write_text(HEADER + "".join(f".entry {n}(.param .u32 x) {{ ret; }}" for n in ("ab", "ac")))
    messages = {
        "a": "more than one kernel has a",
        "x": "no kernel has x",
        "b": "of 4 bytes, not 16",
    }
    for name, message in messages.items():
        result = unit(path, name, [], 1, 1)
        assert result.returncode == 3
        assert message in result.stderr


# ---- what nvcc makes of CUDA's own functions

NUMBERS: list[Callable[[float], float]] = [
    math.exp, math.log, math.tanh, math.log1p, math.expm1, lambda x: 1 / x, math.sqrt,
    lambda x: 1 / math.sqrt(x), lambda x: 2.0**x, math.log2, lambda x: x ** float(np.float32(1.7)),
    math.sin, lambda x: x / float(np.float32(3.1)), math.floor, round, math.erf,
]  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 120])
def test_functions_of_cuda(architecture: int) -> None:
    """Within the errors that the CUDA guide gives; sin of large numbers takes its table."""
    path = ptx_of("numbers", architecture)
    xs = [float(np.float32(x)) for x in (1e-3, 0.3, 0.999, 1, 1.5, 2.5, 7.7, 80, 1e5, 3e7)]
    run = run_file(path, "functions", [float_bits(x) for x in xs], 16 * len(xs), len(xs))
    assert not run.findings
    for k, x in enumerate(xs):
        for j, function in enumerate(NUMBERS):
            try:
                exact = function(x)
            except OverflowError:
                exact = math.inf
            found = float_of(run.words[16 * k + j] & 0xFFFFFFFF)
            if abs(exact) > 3.4e38:
                assert found == math.inf
            else:
                assert abs(found - exact) <= 4 * np.spacing(np.float32(abs(exact))), (j, x)


@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 120])
def test_types_of_cuda(architecture: int) -> None:
    path = ptx_of("numbers", architecture)
    xs = [0.3, 1.5, 2.75, 100.0]
    words = [struct.unpack("<Q", struct.pack("<d", x))[0] for x in xs]
    run = run_file(path, "doubles", words, 16, 4)
    assert not run.findings
    found = np.array(run.words, dtype=np.uint64).view(np.float64).reshape(4, 4)
    expected = [[math.exp(x), math.log(x), x / 3.1, math.sqrt(x)] for x in xs]
    np.testing.assert_allclose(found, expected, rtol=4e-16)

    singles = [float_bits(x) for x in (0.3, -1.005859375, 65519, 1e-6)]
    run = run_file(path, "halves", singles, 16, 4)
    assert not run.findings
    for k, bits in enumerate(singles):
        x = FORMATS["f32"].fraction(bits)
        assert x is not None
        brain, half = FORMATS["bf16"].rounded(x), FORMATS["f16"].rounded(x)
        twice = FORMATS["bf16"].rounded(2 * x)
        back = FORMATS["f32"].rounded(FORMATS["f16"].fraction(half) or Fraction(0))
        assert run.words[4 * k : 4 * k + 4] == [brain, half, twice << 16, back]


@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 120])
def test_integers_arrays_and_atomics_of_cuda(architecture: int) -> None:
    path, mask = ptx_of("numbers", architecture), 2**64 - 1
    xs = [0, 1, 12345678901234567, mask, 1 << 63, 0x0123456789ABCDEF]
    run = run_file(path, "integers", xs, 8 * len(xs), len(xs))
    assert not run.findings
    for t, x in enumerate(xs):
        n, data = t + 3, struct.pack("<Q", x)
        shifted = ((x >> 32 << 32 | x & 0xFFFFFFFF) << n >> 32) & 0xFFFFFFFF
        assert run.words[8 * t : 8 * t + 8] == [
            truncated(signed(x, 64), 7) & mask,
            x % n,
            x * x >> 64,
            signed(x, 64) >> 5 & mask,
            x.bit_count() * 100 + 64 - x.bit_length(),
            int.from_bytes(bytes(data[k] for k in (4, 0, 6, 1)), "big"),
            shifted,
            (x * n + x) >> 64,
        ]

    xs = [0, 3, 6, 9]
    run = run_file(path, "arrays", xs, 4, 4)
    assert not run.findings
    local = [[k * k + 0.5 * (k == x % 8) for k in range(8)] for x in xs]
    table = [1, 20, 300, 4000]
    expected = [local[t][(x + t) % 8] + table[x % 4] for t, x in enumerate(xs)]
    assert [float_of(w & 0xFFFFFFFF) for w in run.words] == expected

    xs = [random.Random(8).randrange(100) for _ in range(64)]
    xs[40] = 5
    xs[:32] = [x + (x == 5) for x in xs[:32]]
    run = run_file(path, "atomics", xs, 8, 64)
    assert not run.findings
    xor = 0
    for x in xs:
        xor ^= x
    counts = [sum(x % 4 == k for x in xs) for k in range(4)]
    assert run.words == [max(xs), sum(xs), xor, 2, *counts]


# ---- planted.cu, as in source mode


@dataclass
class Planted:
    """What one run of the driver has printed, of all its cases."""

    errors: list[str]
    kinds: list[set[str]]
    unexecuted: set[int]

    @property
    def clean(self) -> bool:
        return not any(self.kinds) and all(error == "0" for error in self.errors)


def planted(path: Path, cases: Sequence[str]) -> Planted:
    done = subprocess.run(
        [programs()["ptx_driver"], path],
        input="".join(f"{case}\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = Planted([], [], set())
    for line in done.stdout.splitlines():
        kind, rest = line.split(": ", 1)
        if kind == "error":
            result.errors.append(rest)
            result.kinds.append(set())
        elif kind == "not executed":
            result.unexecuted.add(int(rest.split(":")[0]))
        elif kind not in ("case", "counts"):
            result.kinds[-1].add(kind)
    assert len(result.errors) == len(cases)
    return result


FAULTLESS = {
    "block_sum": ["1 1 32", "31 2 64", "1000 3 64", "777 2 256", "4096 5 128"],
    "rotate": ["1 1 32", "33 2 64", "1000 3 128", "255 1 256"],
    "fragments": ["0 0 0"],
    "similarity": ["1 1 32", "33 17 96", "64 64 64", "100 90 64", "65 130 32", "127 31 128",
                   "2 63 160"],
}  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("kernel", FAULTLESS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_faultless_kernels(architecture: int, kernel: str) -> None:
    """Exact, and nothing is found: at ragged sizes, by random and other orders."""
    schedules = [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (1, 3)]
    cases = [
        case
        for k, size in enumerate(FAULTLESS[kernel])
        for case in cases_of(kernel, "kNone", size, schedules[k % 3 :: 3])
    ]
    assert planted(ptx_of("planted", architecture), cases).clean


# Faults that nvcc has optimised away: what is written there is never read.
GONE = {"kTooMuchShared"}


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{f.kernel}-{f.name}" for f in FAULTS])
def test_planted_faults(architecture: int, fault: Fault) -> None:
    """Each is named as it is in source mode; swapped registers show in the result alone."""
    cases = cases_of(fault.kernel, fault.name, fault.size, [(1, 0), (2, 0), (1, 1), (1, 2), (1, 3)])
    run = planted(ptx_of("planted", architecture), cases)
    if fault.name in GONE:
        assert run.clean
        return
    for kinds, error in zip(run.kinds, run.errors, strict=True):
        assert fault.kinds <= kinds <= fault.kinds | fault.also
        assert fault.kinds or error != "0"


# ---- mutants of the faultless kernels

MUTATION_CASES = {
    "block_sum": ["block_sum 0 1 0 1000 2 256", "block_sum 0 2 2 700 1 128"],
    "rotate": ["rotate 0 1 0 1000 2 128", "rotate 0 2 2 700 1 64"],
    "similarity": [
        "similarity 0 1 0 100 90 96",
        "similarity 0 2 1 64 64 128",
        "similarity 0 3 2 65 33 32",
    ],
    "fragments": ["fragments 0 1 0 0 0 0"],
}


def swapped(statement: str) -> list[str]:
    """An mma with two registers of a matrix exchanged: of each, for C's are the result's."""
    vectors = re.findall(r"\{[^}]*\}", statement)
    mutants = []
    for k, pair in ((0, (0, 1)), (0, (0, 2)), (1, (0, 1)), (1, (1, 2)), (2, (0, 1))):
        registers = [r.strip() for r in vectors[k][1:-1].split(",")]
        i, j = pair
        registers[i], registers[j] = registers[j], registers[i]
        changed = "{" + ",".join(registers) + "}"
        mutants.append(statement.replace(vectors[k], changed, 1))
    return mutants


def mutants_of(statement: str) -> list[str]:
    if re.match(r"bar\.(warp\.)?sync|cp\.async\.(wait|commit)_group", statement):
        return [""]
    if statement.startswith("shfl.sync.bfly"):
        return [statement.replace("bfly", "up")]
    if statement.startswith("mma.sync"):
        return swapped(statement)
    if statement.startswith("ldmatrix"):
        return [statement.replace(".x4.", ".x4.trans.")]
    return []


def faultless_text(path: Path, kernel: str) -> list[str]:
    """The lines of a text that has this kernel alone."""
    head, *entries = re.split(r"(?=\.visible \.entry)", path.read_text())
    number = fault_names().index("kNone")
    own = next(e for e in entries if f"{kernel}IL5Fault{number}E" in e.splitlines()[0])
    return (head + own).split("\n")


# How many mutants there are at the least: fewer would mean that they are not found.
MUTANTS = {"block_sum": 11, "rotate": 2, "similarity": 80, "fragments": 4}


@needs_nvcc
@pytest.mark.parametrize("kernel", MUTATION_CASES)
@pytest.mark.parametrize("architecture", [80, 120])
def test_mutants_die(tmp_path: Path, kernel: str, architecture: int) -> None:
    """Every synchronisation, shuffle and matrix instruction matters, and is seen to."""
    lines, cases = faultless_text(ptx_of("planted", architecture), kernel), MUTATION_CASES[kernel]
    path = tmp_path / "whole.ptx"
    path.write_text("\n".join(lines))
    whole = planted(path, cases)
    assert whole.clean

    def survives(job: tuple[int, str]) -> bool:
        line, mutant = job
        path = tmp_path / f"{line}_{jobs.index(job)}.ptx"
        path.write_text("\n".join([*lines[: line - 1], mutant, *lines[line:]]))
        return planted(path, cases).clean

    jobs = [
        (number, mutant)
        for number, statement in enumerate(lines, 1)
        if number not in whole.unexecuted
        for mutant in mutants_of(statement.strip())
    ]
    assert len(jobs) >= MUTANTS[kernel]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survivors = [
            job for job, alive in zip(jobs, pool.map(survives, jobs), strict=True) if alive
        ]
    assert not survivors
