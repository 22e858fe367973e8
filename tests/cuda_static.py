"""What can be known of the CUDA kernels without running them: registers, spills, machine code.

python tests/cuda_static.py      writes tests/cuda_budgets.txt anew
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emulation

BUDGETS = Path(__file__).parent / "cuda_budgets.txt"
PTXAS = ["-v"]
HEADER = """\
# What each CUDA kernel may use: registers of a thread and bytes of static shared memory, the most
# over sm_80, sm_90, sm_100 and sm_120. tests/test_cuda_static.py compares; no kernel may spill.
# `python tests/cuda_static.py` writes this file.
"""


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one architecture."""

    kernel: str
    registers: int
    shared: int
    spilled: int
    stack: int


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


def cubin(ptx: Path, architecture: int) -> tuple[Path, str]:
    """The machine code of a PTX file, and what ptxas says; kept beside the PTX."""
    target, log = ptx.with_suffix(".cubin"), ptx.with_suffix(".log")
    if not target.exists():
        part = target.with_suffix(".part")
        flags = [f"-arch=sm_{architecture}", "-Xptxas", ",".join(PTXAS)]
        command = ["nvcc", "-cubin", *flags, str(ptx), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        log.write_text(done.stderr)
        part.rename(target)
    return target, log.read_text()


@cache
def cubins(architecture: int) -> list[tuple[Path, str]]:
    files = emulation.ptx_files(architecture)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(cubin, files, [architecture] * len(files)))


def usages(architecture: int) -> list[Usage]:
    found = []
    for _, log in cubins(architecture):
        entry = re.compile(
            r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
            r".*?Used (\d+) registers([^\n]*)",
            re.DOTALL,
        )
        rows = entry.findall(log)
        names = demangled(row[0] for row in rows)
        for name, (_, stack, spilled, registers, rest) in zip(names, rows, strict=True):
            shared = re.search(r"(\d+) bytes smem", rest)
            static = int(shared[1]) if shared else 0
            found.append(Usage(name, int(registers), static, int(spilled), int(stack)))
    return found


def budgets() -> dict[str, tuple[int, int]]:
    """Registers and static shared memory, by kernel."""
    lines = [line for line in BUDGETS.read_text().splitlines() if line and line[0] != "#"]
    rows = [line.rsplit(maxsplit=2) for line in lines]
    return {name: (int(registers), int(shared)) for name, registers, shared in rows}


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


def machine_code(architecture: int) -> dict[str, str]:
    """The SASS of every kernel."""
    disassembler = tool("nvdisasm")
    assert disassembler is not None
    code = {}
    for path, _ in cubins(architecture):
        command = [str(disassembler), "-c", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        parts = re.split(r"^\t?\.section\s+\.text\.(\w+)[^\n]*$", text, flags=re.MULTILINE)
        code.update(zip(demangled(parts[1::2]), parts[2::2], strict=True))
    return code


def write_budgets() -> None:
    most: dict[str, tuple[int, int]] = {}
    for architecture in emulation.ARCHITECTURES:
        for u in usages(architecture):
            registers, shared = most.get(u.kernel, (0, 0))
            most[u.kernel] = max(registers, u.registers), max(shared, u.shared)
    width = max(map(len, most))
    rows = [f"{name:<{width}} {r:>4} {s:>6}" for name, (r, s) in sorted(most.items())]
    BUDGETS.write_text(HEADER + "\n".join(rows) + "\n")


if __name__ == "__main__":
    write_budgets()
