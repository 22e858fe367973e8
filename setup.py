"""Hands the build to CMake with Ninja.

Environment variables:

SSLKERN_TORCH_DIR  folder of the torch package to build against (default: the installed one)
SSLKERN_BUILD_DIR  folder that keeps the build between installs (default: build/cmake)
MAX_JOBS           parallel compiler processes (default: one per core)
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def torch_dir() -> Path:
    """Find torch without importing it, which pip's isolated build environment could not."""
    if "SSLKERN_TORCH_DIR" in os.environ:
        return Path(os.environ["SSLKERN_TORCH_DIR"])
    spec = importlib.util.find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    candidates += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("platlib", "purelib")]
    for candidate in candidates:
        if (candidate / "include").is_dir():
            return candidate
    sys.exit(
        "sslkern: expected torch to be installed, got none. Run: pip install 'torch>=2.13,<2.15'"
    )


BUILD = Path(os.environ.get("SSLKERN_BUILD_DIR", ROOT / "build" / "cmake"))


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
        # --fresh: an isolated build environment lies at another path every time.
        run("cmake", "--fresh", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *flags)
        run("cmake", "--build", BUILD, "--parallel", jobs)
        install(Path(self.get_ext_fullpath(ext.name)).resolve().parents[1])

    def copy_extensions_to_source(self) -> None:
        """An editable install: the module and what it was built for, beside the sources."""
        install(ROOT)


def install(prefix: Path) -> None:
    """Put the built files into ``prefix``/sslkern."""
    run("cmake", "--install", BUILD, "--prefix", prefix)


def run(*command: object) -> None:
    """Run a command; its failure ends the build."""
    subprocess.run([str(part) for part in command], check=True)


torch_dir()  # a missing torch ends here, before anything is downloaded or compiled
setup(ext_modules=[Extension("sslkern._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
