"""Programs that run CUDA kernels on the emulation of csrc/platform/simt, built by the C++ compiler.

A program is kernels (``.cu``), the host code that launches them, and the runtime. There are three
ways to build it, after what is seen of the kernels while they run:

``plain``  barriers, warp collectives and asynchronous copies
``check``  every load and store as well: the kernels are compiled for ThreadSanitizer, whose place
           the runtime takes
``asan``   as ``plain``, under AddressSanitizer and UndefinedBehaviorSanitizer

Objects lie in build/emulation under a hash of all that goes into them, so that programs, libraries
and processes share them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = sorted((ROOT / "csrc" / "platform" / "simt").glob("*.cpp"))
PTX = sorted((ROOT / "csrc" / "platform" / "ptx").glob("*.cpp"))
FOLDER = ROOT / "build" / "emulation"
MODES = ("plain", "check", "asan")

# Older addr2lines name the wrong file for inline functions in DWARF 5.
FLAGS = ["-std=c++17", "-gdwarf-4", "-fPIC", "-fvisibility=default", "-Wall", "-Wextra", "-Werror"]
ASAN = "-fsanitize=address,undefined"
UNDER_ASAN = [ASAN, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
KERNEL_FLAGS = {
    "plain": ["-O2"],
    "check": ["-O1", "-fsanitize=thread"],
    "asan": ["-O0", *UNDER_ASAN],  # five times as fast to compile as -O1: minutes
}
HOST_FLAGS = {"plain": ["-O2"], "check": ["-O2"], "asan": ["-O1", *UNDER_ASAN]}

Part = tuple[Path, tuple[str, ...]]


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def parts(sources: Iterable[Path], *flags: str) -> list[Part]:
    """Of a program: sources, with flags of their own."""
    return [(source, flags) for source in sources]


def program(name: str, mode: str, of: list[Part]) -> Path:
    """A program, built where it is not there yet."""
    return _linked(f"{name}-{mode}", "", mode, of)


def library(name: str, mode: str, of: list[Part]) -> Path:
    """The same as a shared library, which takes its own functions before others of the name."""
    return _linked(name, ".so", mode, of, "-shared", "-Wl,-Bsymbolic")


@contextmanager
def one_builder() -> Iterator[None]:
    """Processes that need the same files wait for the first."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(target: Path, command: list[str | Path]) -> Path:
    """A file that a command writes, whole or not at all, where it is not there yet."""
    if not target.exists():
        part = target.with_suffix(".part")
        subprocess.run([*command, "-o", part], check=True)
        part.rename(target)
    return target


@cache
def dependencies(source: Path) -> list[Path]:
    """The source and what it includes, of this project."""
    command = [compiler(), "-std=c++17", "-MM", *_includes(source), "-x", "c++", str(source)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [Path(word) for word in text.replace("\\\n", " ").split()[1:]]


def state(source: Path, flags: list[str]) -> str:
    """A hash of everything that goes into an object."""
    digest = hashlib.sha256(" ".join(flags).encode())
    for file in dependencies(source):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _includes(source: Path) -> list[str]:
    return [f"-I{ROOT / 'csrc'}", f"-I{source.parent}"]


def _linked(name: str, suffix: str, mode: str, of: list[Part], *flags: str) -> Path:
    with one_builder():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda part: _object(*part, mode), of))
        names = " ".join([*flags, *(path.name for path in objects)])
        target = FOLDER / f"{name}-{hashlib.sha256(names.encode()).hexdigest()[:16]}{suffix}"
        sanitizers = [ASAN] if mode == "asan" else []
        return made(target, [compiler(), *objects, *sanitizers, *flags, "-ldl"])


def _object(source: Path, own_flags: tuple[str, ...], mode: str) -> Path:
    of_mode = KERNEL_FLAGS if source.suffix == ".cu" else HOST_FLAGS
    flags = [*FLAGS, *of_mode[mode], *own_flags]
    # Kernels say what nvcc is to unroll.
    flags += ["-Wno-unknown-pragmas", "-x", "c++"] if source.suffix == ".cu" else []
    target = FOLDER / f"{source.name}-{state(source, flags)}.o"
    return made(target, [compiler(), *_includes(source), *flags, "-c", source])
