"""Libraries of the CUDA kernels on the emulation of csrc/platform, for the tests of the operators.

``simt``   the kernels' source, compiled by the C++ compiler with every load and store seen
``plain``  likewise without loads and stores: faster
``asan``   likewise under AddressSanitizer, which the process must have been started with
``ptx``    the PTX that nvcc makes of the kernels, of which ptxas makes every machine code
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cuda_static
import simt_build

import sslkern.ops._extension as extension

ROOT = simt_build.ROOT
CSRC = ROOT / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = (80, 90, 100, 120)  # of machine code; PTX is of the first, as in CMakeLists.txt
NAMES = ("simt", "plain", "asan", "ptx")

_MODES = {"simt": "check", "plain": "plain", "asan": "asan", "ptx": "plain"}
FOLDER = simt_build.FOLDER
NVCC_FLAGS = ["-std=c++17", "--expt-relaxed-constexpr", "-Werror", "all-warnings"]


def missing(name: str) -> str | None:
    """Why the library cannot be built here, if it cannot."""
    if shutil.which(simt_build.compiler()) is None:
        return "no C++ compiler"
    if name == "ptx" and shutil.which("nvcc") is None:
        return "nvcc is not installed"
    return None


@dataclass(frozen=True)
class Recorded:
    """One launch of a kernel, by its mangled name."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    dynamic_bytes: int
    words: tuple[int | None, ...]  # its parameters; None: a pointer

    @staticmethod
    def read(line: str) -> Recorded:
        kernel, grid, block, dynamic, *words = line.split()
        return Recorded(
            kernel,
            tuple(map(int, grid.split(","))),
            tuple(map(int, block.split(","))),
            int(dynamic),
            tuple(None if word == "pointer" else int(word, 16) for word in words),
        )


class Emulation:
    """A loaded library: its path, its schedule and its findings."""

    is_running = False  # whether CPU tensors run on one

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.emulation_threads.restype = ctypes.c_ulonglong
        self.has_ptx = hasattr(self._library, "emulation_load")

    def load_ptx(self, path: Path, now: bool = True) -> None:
        """Its kernels are compiled at once, or each when it is first launched."""
        self._library.emulation_load.restype = ctypes.c_char_p
        error = self._library.emulation_load(str(path).encode(), int(now))
        assert error is None, error.decode()

    def schedule(self, seed: int, order: int = 0) -> None:
        """A seed, and the number of an order of csrc/platform/simt/runtime.h."""
        self._library.emulation_schedule(ctypes.c_ulonglong(seed), order)

    def shared_bytes(self, count: int) -> None:
        """Of shared memory for a block: cuda_static.SHARED_BYTES if nobody says so."""
        self._library.emulation_shared_bytes(ctypes.c_ulonglong(count))

    def threads(self) -> int:
        """That have run since the last call."""
        return int(self._library.emulation_threads())

    def findings(self) -> list[str]:
        """Since the last call."""
        text = ctypes.create_string_buffer(1 << 16)
        self._library.emulation_findings(text, ctypes.c_ulonglong(len(text) - 1))
        return text.value.decode().splitlines()

    def most_steps(self, steps: int) -> None:
        """Of all threads of a launch together; what takes more is reported as endless."""
        self._library.emulation_most_steps(ctypes.c_ulonglong(steps))

    def record(self, on: bool) -> None:
        """Whether launches are recorded from here on; of PTX alone."""
        self._library.emulation_record(int(on))

    def launches(self) -> list[Recorded]:
        """Those recorded."""
        self._library.emulation_launches.restype = ctypes.c_char_p
        text = self._library.emulation_launches().decode()
        return [Recorded.read(line) for line in text.splitlines()]

    def launches_by(self, run: Callable[[], object]) -> list[Recorded]:
        """Those of PTX that a call makes."""
        self.record(True)
        run()
        launches = self.launches()
        self.record(False)
        return launches

    def launched_by(self, run: Callable[[], object]) -> set[str]:
        """Kernels of PTX that a call launches, by their mangled names."""
        return {launch.kernel for launch in self.launches_by(run)}

    def unlaunched(self) -> list[str]:
        """Kernels of PTX that no launch has gone through, by their mangled names."""
        self._library.emulation_unlaunched.restype = ctypes.c_char_p
        names: list[str] = self._library.emulation_unlaunched().decode().splitlines()
        return names

    def count(self, on: bool) -> None:
        """Whether launches are counted from here on (PTX alone); forgets what was counted."""
        self._library.emulation_count(int(on))
        self._library.emulation_counts()

    def counts(self) -> dict[str, dict[str, Any]]:
        """By kernel, since the last call: see csrc/platform/ptx/counting.h."""
        self._library.emulation_counts.restype = ctypes.c_char_p
        kernels: dict[str, dict[str, Any]] = json.loads(self._library.emulation_counts())
        return kernels

    def start(self) -> None:
        """Has CPU tensors run on these kernels."""
        extension.C.set_emulation(str(self.path))
        Emulation.is_running = True

    @staticmethod
    def stop() -> None:
        extension.C.set_emulation("")
        Emulation.is_running = False


LOADED: dict[str, Emulation] = {}


def library(name: str) -> Emulation:
    """Built where it is not there yet, under build/emulation; loaded once."""
    if name not in LOADED:
        found = Emulation(_build(name))
        for file in ptx_files() if name == "ptx" else []:
            found.load_ptx(file, now=False)
        LOADED[name] = found
    return LOADED[name]


def ptx_files() -> list[Path]:
    """The PTX of all kernels: the built library's own, or made anew, if need be with lines."""
    lines = "SSLKERN_PTX_LINES" in os.environ
    with simt_build.one_builder():
        if not lines and _is_current(cuda_static.LIBRARY):
            return _ptx_of(cuda_static.LIBRARY)
        flags = ["-ptx", *(["-lineinfo"] if lines else []), *NVCC_FLAGS]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda source: _compiled(source, flags), KERNELS))


def _is_current(library: Path) -> bool:
    """Whether a library is there, can be read, and was written after all that it is made of."""
    if not library.exists() or cuda_static.tool("cuobjdump") is None:
        return False
    sources = {ROOT / "CMakeLists.txt", *chain.from_iterable(map(simt_build.dependencies, KERNELS))}
    return library.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def _ptx_of(library: Path) -> list[Path]:
    """One file for each source, as the library has them: without comments."""
    status = library.stat()
    target = FOLDER / f"ptx-{status.st_size}-{status.st_mtime_ns}"
    if not target.exists():
        part = target.with_suffix(".part")
        part.mkdir(exist_ok=True)
        cuda_static.output_of("cuobjdump", "-xptx", "all", library, folder=part)
        part.rename(target)
    return sorted(target.glob("*.ptx"))


def _compiled(source: Path, flags: list[str]) -> Path:
    flags = [*flags, f"-I{CSRC}", f"-arch=compute_{ARCHITECTURES[0]}"]
    target = FOLDER / f"{source.stem}-{simt_build.state(source, flags)}.ptx"
    return simt_build.made(target, ["nvcc", *flags, source])


def _build(kind: str) -> Path:
    with_host = [*KERNELS, CSRC / "cuda" / "entries.cpp"]
    own = [ROOT / "tests" / "simt" / "control.cpp", *simt_build.RUNTIME]
    flags = []
    if kind == "ptx":
        flags = ["-DSSLKERN_PTX", "-O0"]  # of the kernels nothing but their names is used
        own += [*simt_build.PTX, ROOT / "tests" / "simt" / "ptx_library.cpp"]
    parts = [*simt_build.parts(with_host, *flags), *simt_build.parts(own)]
    return simt_build.library(kind, _MODES[kind], parts)
