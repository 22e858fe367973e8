"""Programs that run CUDA kernels on the emulation of csrc/platform/simt, built by the C++ compiler.

A program is kernels (``.cu``), the host code that launches them, and the runtime. There are three
ways to build it, after what is seen of the kernels while they run:

``plain``  barriers, warp collectives and asynchronous copies
``check``  every load and store as well: the kernels are compiled for ThreadSanitizer, whose place
           the runtime takes
``asan``   as ``plain``, under AddressSanitizer and UndefinedBehaviorSanitizer
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = sorted((ROOT / "csrc" / "platform" / "simt").glob("*.cpp"))
MODES = ("plain", "check", "asan")

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
ASAN = "-fsanitize=address,undefined"
UNDER_ASAN = ["-O1", ASAN, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
KERNEL_FLAGS = {"plain": ["-O2"], "check": ["-O1", "-fsanitize=thread"], "asan": UNDER_ASAN}
HOST_FLAGS = {"plain": ["-O2"], "check": ["-O2"], "asan": UNDER_ASAN}


def compiler() -> str:
    return os.environ.get("CXX", "c++")


Job = tuple[Path, tuple[str, ...]]


class Workshop:
    """Builds programs in a folder, and the objects that several of them share once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[Job, Path] = {}
        self.keep: dict[Job, Path] = {}  # where objects are to lie that others may use, too

    def build(self, name: str, mode: str, sources: Iterable[Path], *flags: str) -> Path:
        """The program of ``sources``, kernels and host code, and the runtime."""
        program = self.folder / f"{name}-{mode}"
        self._link(program, mode, self._objects_of(mode, sources, *flags))
        return program

    def build_library(self, path: Path, mode: str, sources: Iterable[Path], *flags: str) -> None:
        """The same as a shared library, which takes its own functions before others of the name."""
        objects = self._objects_of(mode, sources, *flags)
        self._link(path, mode, objects, "-shared", "-Wl,-Bsymbolic")

    @staticmethod
    def job(source: Path, mode: str, *flags: str) -> Job:
        """What an object is known by."""
        of_mode = KERNEL_FLAGS if source.suffix == ".cu" else HOST_FLAGS
        return source, (*of_mode[mode], *flags)

    def _objects_of(self, mode: str, sources: Iterable[Path], *flags: str) -> list[Path]:
        jobs = [self.job(source, mode, *flags) for source in [*sources, *RUNTIME]]
        missing = [job for job in jobs if job not in self.objects]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.objects.update(zip(missing, pool.map(self._compile, missing), strict=True))
        return [self.objects[job] for job in jobs]

    def _link(self, target: Path, mode: str, objects: list[Path], *flags: str) -> None:
        sanitizers = [ASAN] if mode == "asan" else []
        part = target.with_suffix(".part")
        command = [compiler(), *objects, *sanitizers, *flags, "-ldl", "-o", part]
        subprocess.run(command, check=True)
        part.rename(target)

    def _compile(self, job: Job) -> Path:
        source, flags = job
        part = Path(tempfile.mkdtemp(dir=self.folder)) / f"{source.name}.o"
        includes = [f"-I{ROOT / 'csrc'}", f"-I{source.parent}"]
        # Kernels say what nvcc is to unroll.
        language = ["-Wno-unknown-pragmas", "-x", "c++"] if source.suffix == ".cu" else []
        # Older addr2lines name the wrong file for inline functions in DWARF 5.
        command = [compiler(), "-std=c++17", "-gdwarf-4", *WARNINGS, *includes, *flags]
        subprocess.run([*command, *language, "-c", source, "-o", part], check=True)
        if job not in self.keep:
            return part
        part.rename(self.keep[job])
        part.parent.rmdir()
        return self.keep[job]
