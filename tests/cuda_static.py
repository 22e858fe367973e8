"""What can be known of the CUDA kernels without running them: registers, spills, machine code.

All of it is read from the library that has been built, which is the one that GPUs are given. Only
dynamic shared memory is what the emulated launches of tests/test_every_kernel.py ask for.

python tests/cuda_static.py      writes tests/cuda_budgets.txt anew, in about a minute
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import sslkern

BUDGETS = Path(__file__).parent / "cuda_budgets.txt"
LIBRARY = Path(sslkern.__file__).parent / "libsslkern_cuda.so"
SHARED_BYTES = 99 << 10  # static and dynamic, of a block: the least that these architectures allow
HEADER = """\
# What each CUDA kernel may use: registers of a thread and bytes of static shared memory (with the
# KiB that the system takes from sm_90 on), the most over sm_80, sm_90, sm_100 and sm_120; and bytes
# of dynamic shared memory, the most that a launch asks for in tests/test_every_kernel.py, where a
# block may have 99 KiB. tests/test_cuda_static.py and that test compare; no kernel may spill.
# `python tests/cuda_static.py` writes this file, of the library that has been built.
"""


def missing() -> str | None:
    """Why nothing can be said here, if so."""
    if not LIBRARY.exists():
        return "built without CUDA kernels"
    tools = ("cuobjdump", "nvdisasm")
    absent = [name for name in tools if tool(name) is None]
    return f"{absent[0]} is not installed" if absent else None


def tool(name: str) -> Path | None:
    """A tool of the toolkit: on the path, or of the package nvidia-cuda-<name>."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    for folder in map(Path, sys.path):
        found = folder / "nvidia" / "cu13" / "bin" / name
        if found.exists():
            return found
    return None


def output_of(name: str, *arguments: str | Path, folder: Path | None = None) -> str:
    """What a tool of the toolkit prints."""
    command = [str(tool(name)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def demangled(names: Iterable[str]) -> list[str]:
    """Short names: "ntxent_fwd_kernel<Bf16, true>"."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return [_short(line) for line in text.splitlines()]


def _short(name: str) -> str:
    name = re.sub(r"\(bool\)1", "true", re.sub(r"\(bool\)0", "false", name))
    name = name.removeprefix("void ").replace("sslkern::cuda::", "").replace("sslkern::", "")
    return name.partition("(")[0] if "<" not in name else name.rpartition(">(")[0] + ">"


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one architecture."""

    kernel: str
    registers: int
    shared: int
    stack: int
    local: int


@cache
def usages() -> dict[int, list[Usage]]:
    """Of every kernel, by architecture."""
    text = output_of("cuobjdump", "-res-usage", LIBRARY)
    entry = re.compile(
        r"Function (_Z\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", re.ASCII
    )
    found: dict[int, list[Usage]] = {}
    parts = re.split(r"^arch = sm_(\d+)$", text, flags=re.MULTILINE)
    for architecture, part in zip(map(int, parts[1::2]), parts[2::2], strict=True):
        rows = entry.findall(part)
        names = demangled(row[0] for row in rows)
        for name, (_, registers, stack, shared, local) in zip(names, rows, strict=True):
            used = Usage(name, int(registers), int(shared), int(stack), int(local))
            found.setdefault(architecture, []).append(used)
    return found


class Budget(NamedTuple):
    """Of one kernel: registers of a thread, bytes of shared memory."""

    registers: int
    static: int
    dynamic: int


def budgets() -> dict[str, Budget]:
    """By kernel."""
    lines = [line for line in BUDGETS.read_text().splitlines() if line and line[0] != "#"]
    rows = [line.rsplit(maxsplit=3) for line in lines]
    return {name: Budget(*map(int, numbers)) for name, *numbers in rows}


def machine_code(architecture: int, kernels: Collection[str]) -> dict[str, str]:
    """The SASS of kernels, by name: ten take about a second."""
    code = {}
    with tempfile.TemporaryDirectory() as folder:
        output_of("cuobjdump", "-xelf", f"sm_{architecture}", LIBRARY, folder=Path(folder))
        for path in sorted(Path(folder).glob(f"*.sm_{architecture}.cubin")):
            numbers = [number for name, number in _symbols(path).items() if name in kernels]
            if numbers:
                text = output_of("nvdisasm", "-c", "-fun", ",".join(numbers), path)
                parts = re.split(r"^\t?\.section\s+\.text\.(\w+).*$", text, flags=re.MULTILINE)
                code.update(zip(demangled(parts[1::2]), parts[2::2], strict=True))
    return code


def _symbols(cubin: Path) -> dict[str, str]:
    """The numbers of the kernels' symbols, by short name."""
    command = ["readelf", "--symbols", "--wide", cubin]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ *(\d+): .* FUNC .* (_Z\w+)$", text, re.MULTILINE)
    return dict(zip(demangled(name for _, name in found), (k for k, _ in found), strict=True))


def write_budgets(dynamic: dict[str, int]) -> None:
    most: dict[str, tuple[int, int]] = {}
    for used in (used for per_architecture in usages().values() for used in per_architecture):
        registers, shared = most.get(used.kernel, (0, 0))
        most[used.kernel] = max(registers, used.registers), max(shared, used.shared)
    width = max(map(len, most))
    rows = [
        f"{name:<{width}} {r:>4} {s:>6} {dynamic[name]:>6}" for name, (r, s) in sorted(most.items())
    ]
    BUDGETS.write_text(HEADER + "\n".join(rows) + "\n")


if __name__ == "__main__":
    from test_every_kernel import every_launch, most_dynamic_bytes  # which import this file

    write_budgets(most_dynamic_bytes(every_launch()))
