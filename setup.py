"""Looks whether all is there to build with, then hands the build to CMake with Ninja.

Environment variables:

SSLKERN_TORCH_DIR  folder of the torch package to build against (default: the installed one)
SSLKERN_BUILD_DIR  folder that keeps the build between installs (default: build/cmake)
MAX_JOBS           parallel compiler processes (default: one per core)
CXX                the C++ compiler (default: the first that CMake finds)
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("SSLKERN_BUILD_DIR", ROOT / "build" / "cmake"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH = next(name for name in PROJECT["dependencies"] if name.startswith("torch"))
OLDEST_COMPILER = {"clang": 16, "g++": 12}  # that compiles torch's headers
BUILDING = {"bdist_wheel", "build", "build_ext", "dist_info", "editable_wheel"}


def torch_dir() -> Path | None:
    """Find torch without importing it, which pip's isolated build environment could not."""
    if "SSLKERN_TORCH_DIR" in os.environ:
        return Path(os.environ["SSLKERN_TORCH_DIR"])
    spec = importlib.util.find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    candidates += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("platlib", "purelib")]
    return next((folder for folder in candidates if (folder / "include").is_dir()), None)


def problems() -> Iterator[str]:
    """What is missing to build with, and what to do."""
    yield from torch_problems()
    yield from compiler_problems()
    yield from tool_problems()


def torch_problems() -> Iterator[str]:
    """Against another torch than the extension is going to run with, it would not load."""
    folder = torch_dir()
    if folder is None:
        yield (
            f"expected {TORCH} to be installed, got none. Run: pip install '{TORCH}'. "
            "Where the build is isolated from it, set SSLKERN_TORCH_DIR to torch's folder."
        )
        return
    about = folder / "version.py"
    version = read_version(about.read_text() if about.exists() else "", "__version__.*?['\"]")
    lowest, too_high = (tuple(map(int, v)) for v in re.findall(r"(\d+)\.(\d+)", TORCH))
    if version is None or not (folder / "include").is_dir():
        yield f"expected SSLKERN_TORCH_DIR to be the folder of an installed torch, got {folder}."
    elif not lowest <= version < too_high:
        found = ".".join(map(str, version))
        yield f"expected {TORCH}, got torch {found} in {folder}. Run: pip install '{TORCH}'."


def compiler_problems() -> Iterator[str]:
    """The compiler that CMake is going to take, and Python's headers."""
    named = shlex.split(os.environ.get("CXX", ""))[:1]
    paths = map(shutil.which, named or ["c++", "g++", "clang++", "icpx"])
    found = next((path for path in paths if path), None)
    name, version = compiler(found) if found else ("", 0)
    if version < OLDEST_COMPILER.get(name, 1):
        got = f"CXX={named[0]}, which is not there" if named else "none on PATH"
        if found:
            got = f"{found}, which is {name} {version}" if name else f"{found}, which is neither"
        yield (
            f"expected a C++20 compiler (g++ 12 or clang 16, or later), got {got}. "
            "Install one (Debian, Ubuntu: apt-get install g++), or set CXX to it."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        yield (
            f"expected the headers of Python, got no {header}. "
            "Install them (Debian, Ubuntu: apt-get install python3-dev)."
        )


def compiler(path: str) -> tuple[str, int]:
    """('g++', 12), by what it defines; ('', 0) for what is no compiler of OLDEST_COMPILER."""
    command = [path, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True).stdout
    for name, macro in (("clang", "__clang_major__"), ("g++", "__GNUC__")):
        if found := re.search(rf"#define {macro} (\d+)", macros):
            return name, int(found[1])
    return "", 0


def tool_problems() -> Iterator[str]:
    """What pip brings by itself, unless told not to."""
    remedy = (
        "Install without --no-build-isolation, or run: pip install 'cmake>=3.24' ninja pybind11; "
        "cmake and ninja have to be on PATH."
    )
    absent = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    absent += [] if importlib.util.find_spec("pybind11") else ["pybind11"]
    if absent:
        yield f"expected {', '.join(absent)} to build with, got none. {remedy}"
    if "cmake" not in absent:
        shown = subprocess.run(["cmake", "--version"], capture_output=True, text=True).stdout
        version = read_version(shown, "version ")
        if version is None or version < (3, 24):
            yield f"expected CMake 3.24 or later, got {shutil.which('cmake')}. {remedy}"


def read_version(text: str, before: str) -> tuple[int, ...] | None:
    """The first two numbers of the version that follows ``before``."""
    found = re.search(before + r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else None


class FreshBuild(build):
    def run(self) -> None:
        """Setuptools packs all that is in its folder, also what earlier builds put there."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        options = {
            "Python_EXECUTABLE": sys.executable,
            "SSLKERN_TORCH_DIR": torch_dir(),
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        flags = [f"-D{name}={value}" for name, value in options.items()]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        forget(BUILD)
        run("cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *flags)
        run("cmake", "--build", BUILD, "--parallel", jobs)
        install(Path(self.get_ext_fullpath(ext.name)).resolve().parents[1])

    def copy_extensions_to_source(self) -> None:
        """An editable install: the module and what it was built for, beside the sources."""
        install(ROOT)


def forget(folder: Path) -> None:
    """What CMake has found earlier: an isolated environment lies at another path every time.

    The objects stay, and Ninja knows which of them are still good.
    """
    (folder / "CMakeCache.txt").unlink(missing_ok=True)
    for found in (folder / "CMakeFiles").glob("[0-9]*"):
        shutil.rmtree(found)


def install(prefix: Path) -> None:
    """Put the built files into ``prefix``/sslkern."""
    run("cmake", "--install", BUILD, "--prefix", prefix)


def run(*command: object) -> None:
    """Run a command; its failure ends the build, and what it printed says why."""
    if subprocess.run([str(part) for part in command]).returncode:
        sys.exit(f"sslkern: `{command[0]} {command[1]}` failed; the reason is printed above.")


# Before anything is compiled, and before pip downloads what the package depends on.
if BUILDING & set(sys.argv) and (found := list(problems())):
    sys.exit("\n".join(f"sslkern: {problem}" for problem in found))
setup(
    ext_modules=[Extension("sslkern._C", sources=[])],
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
)
