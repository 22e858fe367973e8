"""Libraries of the CUDA kernels on the emulation of csrc/platform, for the tests of the operators.

``simt``   the kernels' source, compiled by the C++ compiler with every load and store seen
``plain``  likewise without loads and stores: faster
``asan``   likewise under AddressSanitizer, which the process must have been started with
``ptx-N``  the PTX that nvcc makes of the kernels for the architecture sm_N
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import simt_build

import sslkern.ops._extension as extension

ROOT = simt_build.ROOT
CSRC = ROOT / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = (80, 90, 100, 120)
NAMES = ("simt", "plain", "asan", *(f"ptx-{n}" for n in ARCHITECTURES))

_MODES = {"simt": "check", "plain": "plain", "asan": "asan", "ptx": "plain"}
_SHARED = ["-fPIC", "-fvisibility=default"]
NVCC_FLAGS = ["-std=c++17", "--expt-relaxed-constexpr", "-Werror", "all-warnings"]


def missing(name: str) -> str | None:
    """Why the library cannot be built here, if it cannot."""
    if shutil.which(simt_build.compiler()) is None:
        return "no C++ compiler"
    if name.startswith("ptx") and shutil.which("nvcc") is None:
        return "nvcc is not installed"
    return None


class Emulation:
    """A loaded library: its path, its schedule and its findings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.emulation_threads.restype = ctypes.c_ulonglong
        self.has_ptx = hasattr(self._library, "emulation_load")

    def load_ptx(self, path: Path) -> None:
        self._library.emulation_load.restype = ctypes.c_char_p
        error = self._library.emulation_load(str(path).encode())
        assert error is None, error.decode()

    def schedule(self, seed: int, order: int = 0) -> None:
        """A seed, and the number of an order of csrc/platform/simt/runtime.h."""
        self._library.emulation_schedule(ctypes.c_ulonglong(seed), order)

    def shared_bytes(self, count: int) -> None:
        """Of shared memory for a block."""
        self._library.emulation_shared_bytes(ctypes.c_ulonglong(count))

    def threads(self) -> int:
        """That have run since the last call."""
        return int(self._library.emulation_threads())

    def findings(self) -> list[str]:
        """Since the last call."""
        text = ctypes.create_string_buffer(1 << 16)
        self._library.emulation_findings(text, ctypes.c_ulonglong(len(text) - 1))
        return text.value.decode().splitlines()

    def start(self) -> None:
        """Has CPU tensors run on these kernels."""
        extension.C.set_emulation(str(self.path))

    @staticmethod
    def stop() -> None:
        extension.C.set_emulation("")


@cache
def library(name: str) -> Emulation:
    """Built once for the state of the sources, and kept under build/emulation."""
    kind = name.partition("-")[0]
    folder = ROOT / "build" / "emulation" / _state()
    path = folder / f"{name}.so"
    folder.mkdir(parents=True, exist_ok=True)
    _forget_others(folder)
    if not path.exists():
        _build(path, kind)
    found = Emulation(path)
    if kind == "ptx":
        for file in ptx_files(int(name.partition("-")[2])):
            found.load_ptx(file)
    return found


def ptx_files(architecture: int) -> list[Path]:
    """The PTX of every kernel source, with its source lines."""
    folder = ROOT / "build" / "emulation" / _state() / f"sm_{architecture}"
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.ptx"
        if not target.exists():
            command = ["nvcc", "-ptx", "-lineinfo", *NVCC_FLAGS, f"-I{CSRC}"]
            part = target.with_suffix(".part")
            command += [f"-arch=sm_{architecture}", str(source), "-o", str(part)]
            subprocess.run(command, check=True)
            part.rename(target)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, KERNELS))


@cache
def _state() -> str:
    """A hash of everything that goes into a library."""
    digest = hashlib.sha256()
    folders = [CSRC / name for name in ("contract", "cuda", "math", "platform")]
    files = [p for f in folders for p in f.rglob("*") if p.is_file()]
    files += [*(ROOT / "tests" / "simt").glob("*_library.cpp"), ROOT / "tests/simt/control.cpp"]
    for file in sorted([*files, Path(__file__), Path(simt_build.__file__)]):
        digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _forget_others(folder: Path) -> None:
    """At most three states are kept: this one and the latest two others."""
    others = [p for p in folder.parent.iterdir() if p != folder]
    for old in sorted(others, key=lambda p: p.stat().st_mtime)[:-2]:
        shutil.rmtree(old, ignore_errors=True)


def _build(path: Path, kind: str) -> None:
    workshop = simt_build.Workshop(path.parent)
    sources = [*KERNELS, CSRC / "cuda" / "entries.cpp", ROOT / "tests" / "simt" / "control.cpp"]
    flags = list(_SHARED)
    if kind == "ptx":
        flags.append("-DSSLKERN_PTX")
        sources += sorted((CSRC / "platform" / "ptx").glob("*.cpp"))
        sources.append(ROOT / "tests" / "simt" / "ptx_library.cpp")
    workshop.build_library(path, _MODES[kind], sources, *flags)
