"""Runs PTX on the emulation: a few instructions on many operands, a text, or a file of nvcc's."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import simt_build
from ptx_numbers import bits_of, register_bits

ARCHITECTURES = (80, 90, 100, 120)
SIMT = simt_build.ROOT / "tests" / "simt"

needs_compiler = pytest.mark.skipif(
    shutil.which(simt_build.compiler()) is None, reason="no C++ compiler"
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


# ---- programs and texts, made once


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ptx")


def folder() -> Path:
    return Path(_folder().name)


@cache
def programs() -> dict[str, Path]:
    """ptx_unit and ptx_driver."""
    common = [*simt_build.PTX, *simt_build.RUNTIME]
    return {
        name: simt_build.program(name, "plain", simt_build.parts([SIMT / f"{name}.cpp", *common]))
        for name in ("ptx_unit", "ptx_driver")
    }


@cache
def ptx_of(name: str, architecture: int, *flags: str) -> Path:
    """The PTX of tests/simt/<name>.cu for an architecture."""
    target = folder() / f"{name}_{architecture}{''.join(flags)}.ptx"
    command = ["nvcc", "-std=c++17", "-ptx", f"-arch=sm_{architecture}", *flags]
    command += [f"-I{simt_build.ROOT / 'csrc'}", str(SIMT / f"{name}.cu"), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@dataclass
class Counting:
    """How often to launch what is counted, and in which order threads run (a simt::Order)."""

    blocks: int = 1
    launches: int = 1
    order: int = 0


def unit(
    path: Path,
    kernel: str,
    inputs: Sequence[int],
    outputs: int,
    threads: int,
    dynamic: int = 0,
    counting: Counting | None = None,
) -> subprocess.CompletedProcess[str]:
    numbers = [threads, dynamic, len(inputs), outputs]
    if counting is not None:
        numbers += [counting.blocks, counting.launches, counting.order]
    return subprocess.run(
        [programs()["ptx_unit"], path, kernel, *map(str, numbers)],
        input="\n".join(f"{x:x}" for x in inputs),
        capture_output=True,
        text=True,
        timeout=60,
    )


# ---- one kernel on an array of words


@dataclass
class Run:
    """What a run has written and found, and the instructions executed, by group."""

    words: list[int]
    findings: list[str]
    executed: dict[str, int] = field(default_factory=dict)
    counted: dict[str, Any] = field(default_factory=dict)  # of the kernel


def run_file(
    path: Path,
    kernel: str,
    inputs: Sequence[int],
    outputs: int,
    threads: int,
    dynamic: int = 0,
    counting: Counting | None = None,
) -> Run:
    done = unit(path, kernel, inputs, outputs, threads, dynamic, counting)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rest = lines[outputs:]
    counted = json.loads(rest.pop().removeprefix("counted: ")) if counting is not None else {}
    counts = [line.split() for line in rest if line.startswith("executed: ")]
    return Run(
        [int(line, 16) for line in lines[:outputs]],
        [line for line in rest if not line.startswith("executed: ")],
        {group: int(times) for _, group, times in counts},
        next(iter(counted.values()), {}),
    )


HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"


def kernel_text(declarations: str, body: str, before: str = "", directives: str = "") -> str:
    """A body that finds its arrays at %in and %out, and the thread's number in %t."""
    return (
        f"{HEADER}{before}\n.visible .entry unit(.param .u64 in, .param .u64 out)\n{directives}\n"
        "{\n.reg .b64 %in, %out;\n.reg .b32 %t;\n"
        f"{declarations}\n"
        "ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %t, %tid.x;\n"
        f"{body}\nret;\n}}\n"
    )


def run_text(
    declarations: str,
    body: str,
    inputs: Sequence[int] = (0,),
    outputs: int = 1,
    threads: int = 1,
    dynamic: int = 0,
    counting: Counting | None = None,
    **around: str,
) -> Run:
    path = folder() / "unit.ptx"
    path.write_text(kernel_text(declarations, body, **around))
    return run_file(path, "unit", inputs, outputs, threads, dynamic, counting)


# ---- instructions on operands


def _load(name: str, kind: str, offset: int) -> str:
    if kind == "pred":
        return (
            f".reg .pred {name};\n.reg .b32 %{name};\nld.global.b32 %{name}, [%from+{offset}];\n"
            f"setp.ne.b32 {name}, %{name}, 0;"
        )
    bits = register_bits(kind)
    return f".reg .b{bits} {name};\nld.global.b{bits} {name}, [%from+{offset}];"


def _store(kind: str) -> str:
    if kind == "pred":
        return ".reg .b32 %d;\nselp.b32 %d, 1, 0, d;\nst.global.b32 [%to], %d;"
    return f"st.global.b{register_bits(kind)} [%to], d;"


def evaluate(
    body: str, result: str, sources: Sequence[str], cases: Sequence[Sequence[int]]
) -> list[int]:
    """What the instructions give for many operands.

    The body reads registers a, b, c, e of the types ``sources`` and writes d of the type
    ``result``; every case is a thread.
    """
    size = 8 * len(sources)
    kind = ".pred" if result == "pred" else f".b{register_bits(result)}"
    text = [
        f".reg {kind} d;\n.reg .b64 %from, %to;",
        f"mul.wide.u32 %from, %t, {size};\nadd.s64 %from, %in, %from;",
        "mul.wide.u32 %to, %t, 8;\nadd.s64 %to, %out, %to;",
        *(_load("abce"[k], source, 8 * k) for k, source in enumerate(sources)),
        body,
        _store(result),
    ]
    found = list[int]()
    for begin in range(0, len(cases), 1024):
        part = cases[begin : begin + 1024]
        inputs = list(itertools.chain.from_iterable(part))
        run = run_text("", "\n".join(text), inputs, len(part), len(part))
        assert not run.findings
        found += [word & (1 << bits_of(result)) - 1 for word in run.words]
    return found


def assert_equal(
    found: Sequence[int], expected: Sequence[int], cases: Sequence[Sequence[int]]
) -> None:
    wrong = [
        f"{[hex(x) for x in case]}: {f:#x}, not {e:#x}"
        for f, e, case in zip(found, expected, cases, strict=True)
        if f != e
    ]
    assert not wrong, wrong[:5]
