"""The archives of a release, an installation of one, and what one without tools says."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import sslkern
from sslkern.ops import _extension

ROOT = Path(__file__).parents[1]
BUILD = Path(os.environ.get("SSLKERN_BUILD_DIR", ROOT / "build" / "cmake"))
# A release is compiled from its source archive, CUDA kernels and all: 12 minutes of a core.
WHOLE = os.environ.get("SSLKERN_TEST_RELEASE") == "1"
COMPILED = {"_build_info.json", "libsslkern_cuda.so"} | {
    f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
}
# As in the Makefile: CMake and Ninja of the same requirements as Python's packages.
TOOLS = {
    name: shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("cmake", "ninja", "c++", "g++")
}
METADATA = r"PKG-INFO|setup\.cfg|sslkern\.egg-info/.*"
SITE = [Path(torch.__file__).parents[1], Path(pytest.__file__).parents[1]]

needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="what a release has is compared with what git tracks"
)
needs_build = pytest.mark.skipif(
    not (WHOLE or (BUILD / "cmake_install.cmake").exists()),
    reason=f"{BUILD} holds no build to install",
)


def run(*command: object) -> str:
    """The output of a command that has to succeed; it runs where no checkout is importable."""
    done = attempt(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(
    *command: object, folder: Path = Path("/"), **environment: str
) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SSLKERN_TORCH_DIR")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=own | environment,
        capture_output=True,
        text=True,
    )


def tracked() -> set[str]:
    """What git tracks, or would after `git add`."""
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def call_backend(hook: str, folder: Path, output: Path, **environment: str) -> Path:
    """What a front end as pip calls in a project, without its isolation."""
    options = {"--build-option": "--compression=stored"}  # kernels are 100 MB
    call = f"import setuptools.build_meta as b; print(b.{hook}({str(output)!r}, {options}))"
    done = attempt(sys.executable, "-c", call, folder=folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / done.stdout.splitlines()[-1]


# ---- the source archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a fresh copy: no file that a build left behind is in its way."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    call = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    done = attempt(sys.executable, "-c", call, folder=copy)
    assert done.returncode == 0, done.stderr
    return copy / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return next(folder.iterdir())


@needs_git
def test_source_archive_holds_what_git_tracks(unpacked: Path) -> None:
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    assert {name for name in files if not re.fullmatch(METADATA, name)} == tracked()


@needs_git
def test_source_archive_configures_and_compiles(unpacked: Path, tmp_path: Path) -> None:
    """Every source of the CPU is in the build, and one of them compiles; all would take minutes."""
    import pybind11

    options = {
        "CMAKE_MAKE_PROGRAM": TOOLS["ninja"],
        "Python_EXECUTABLE": sys.executable,
        "SSLKERN_TORCH_DIR": Path(torch.__file__).parent,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "SSLKERN_CUDA": "OFF",
    }
    flags = [f"-D{name}={value}" for name, value in options.items()]
    run(TOOLS["cmake"], "-S", unpacked, "-B", tmp_path, "-G", "Ninja", *flags)
    targets = run(TOOLS["ninja"], "-C", tmp_path, "-t", "targets", "all")
    built = set(re.findall(r"/(csrc/\S+\.cpp)\.o:", targets))
    sources = [*(ROOT / "csrc" / "cpu").glob("*.cpp"), *(ROOT / "csrc" / "ops").glob("*.cpp")]
    assert built == {"csrc/bindings.cpp", *(str(p.relative_to(ROOT)) for p in sources)}
    run(TOOLS["ninja"], "-C", tmp_path, "CMakeFiles/sslkern_portable.dir/csrc/cpu/machine.cpp.o")


# ---- the wheel, and the package that it installs


@pytest.fixture(scope="module")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel is made of: the checkout's build, or, for a release, one of its own."""
    return tmp_path_factory.mktemp("build") if WHOLE else BUILD.absolute()


@pytest.fixture(scope="module")
def wheel(unpacked: Path, build_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the source archive; without SSLKERN_TEST_RELEASE nothing is compiled for it.

    Earlier builds left a module for another Python and a file that is no longer tracked.
    """
    source = tmp_path_factory.mktemp("source") / "sslkern"
    shutil.copytree(unpacked, source)
    (source / "sslkern" / "_C.cpython-310-x86_64-linux-gnu.so").touch()
    stale = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/sslkern"
    (source / stale).mkdir(parents=True)
    (source / stale / "gone.py").touch()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not WHOLE:
        path = f"{cmake_that_installs(tmp_path_factory.mktemp('tools'))}:{path}"
    output = tmp_path_factory.mktemp("wheel")
    return call_backend(
        "build_wheel", source, output, PATH=path, SSLKERN_BUILD_DIR=str(build_folder)
    )


def cmake_that_installs(folder: Path) -> Path:
    """A folder with a CMake that installs what is built, and builds nothing."""
    script = folder / "cmake"
    script.write_text(
        f'#!/bin/sh\ncase $1 in --install | --version) exec "{TOOLS["cmake"]}" "$@" ;; esac\n'
    )
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that the wheel is installed in.

    It sees torch and pytest of this one, but not its .pth files: not the checkout.
    """
    folder = tmp_path_factory.mktemp("environment")
    interpreter = new_environment(folder)
    (site_packages(interpreter) / "other.pth").write_text("\n".join(map(str, SITE)))
    install = ("install", "--no-deps", "--no-index", "--no-compile", "--quiet", wheel)
    run(sys.executable, "-m", "pip", "--python", interpreter, *install)
    return interpreter


def new_environment(folder: Path) -> Path:
    """A virtual environment without pip; its interpreter."""
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def site_packages(interpreter: Path) -> Path:
    call = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(interpreter, "-c", call).strip())


@needs_git
@needs_build
def test_wheel_holds_what_runs_and_nothing_else(wheel: Path, build_folder: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if re.fullmatch(r"sslkern-[\d.]+\.dist-info/.*", name)}
    built = {f"sslkern/{name}" for name in COMPILED if (build_folder / name).exists()}
    assert built >= {f"sslkern/{name}" for name in COMPILED - {"libsslkern_cuda.so"}}
    sources = {name for name in tracked() if name.startswith("sslkern/")}
    assert sources >= {"sslkern/py.typed", "sslkern/_C.pyi"}
    assert names - metadata == sources | built
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


@needs_git
@needs_build
def test_installed_package_passes_tests(python: Path, unpacked: Path) -> None:
    found = run(python, "-c", "import sslkern; print(sslkern.__file__)").strip()
    assert Path(found).is_relative_to(site_packages(python))
    assert '"version"' in run(python, "-m", "sslkern", "info", "--json")
    output = run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-c", unpacked / "pyproject.toml", "--backends", "cpu"),
        *("-k", "at_any_temperature or bad_input or opcheck"),
        *(unpacked / "tests" / "test_ntxent.py", unpacked / "tests" / "test_info_nce.py"),
    )
    assert int(re.findall(r"(\d+) passed", output)[0]) > 40
    assert "failed" not in output


# ---- what an installation says that lacks something


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of the checkout as its metadata are made of."""
    folder = tmp_path / "project"
    (folder / "sslkern").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "sslkern/_version.py"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "sslkern" / "__init__.py").touch()
    return folder


def path_with(folder: Path, *names: str) -> str:
    """A PATH that has these tools alone."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(TOOLS[name] or f"/{name} is not installed")
    return str(folder)


def refusal(
    project: Path,
    interpreter: object = sys.executable,
    command: str = "dist_info",
    **environment: str,
) -> str:
    done = attempt(interpreter, "setup.py", "-q", command, folder=project, **environment)
    assert done.returncode == 1, done.stdout
    assert not list(project.glob("*.dist-info"))
    assert 0 < len(done.stderr.splitlines()) <= 3, done.stderr
    assert all(line.startswith("sslkern: expected ") for line in done.stderr.splitlines())
    return str(done.stderr)


def test_nothing_missing_is_not_refused(project: Path, tmp_path: Path) -> None:
    """Else the tests below would pass whatever is missing."""
    path = path_with(tmp_path / "bin", "cmake", "ninja", "c++")
    done = attempt(sys.executable, "setup.py", "-q", "dist_info", folder=project, PATH=path, CXX="")
    assert done.returncode == 0, done.stderr
    assert list(project.glob("*.dist-info"))


def test_no_compiler_is_refused(project: Path, tmp_path: Path) -> None:
    path = path_with(tmp_path / "bin", "cmake", "ninja")
    error = refusal(project, PATH=path, CXX="")
    assert re.search(r"a C\+\+20 compiler .*, got none on PATH.* set CXX", error)
    assert error.count("expected") == 1


def test_compiler_that_is_not_there_is_refused(project: Path) -> None:
    assert "got CXX=/no/c++, which is not there" in refusal(project, CXX="/no/c++ -pipe")


def test_what_is_no_compiler_is_refused(project: Path) -> None:
    wrong = shutil.which("true")
    assert f"got {wrong}, which is neither" in refusal(project, CXX=str(wrong))


@pytest.mark.parametrize(
    ("macros", "got"),
    [("__GNUC__ 11", "g++ 11"), ("__GNUC__ 4\n#define __clang_major__ 15", "clang 15")],
)
def test_old_compiler_is_refused(project: Path, tmp_path: Path, macros: str, got: str) -> None:
    old = tmp_path / "old"
    old.write_text(f"#!/bin/sh\necho '#define {macros}'\n")
    old.chmod(0o755)
    assert f"got {old}, which is {got}. Install one" in refusal(project, CXX=str(old))


def test_no_cmake_and_ninja_are_refused(project: Path, tmp_path: Path) -> None:
    error = refusal(project, PATH=path_with(tmp_path / "bin", "c++"), CXX="")
    assert re.search(r"expected cmake, ninja to build with, got none.* pip install", error)


def test_old_cmake_is_refused(project: Path, tmp_path: Path) -> None:
    path = path_with(tmp_path / "bin", "ninja", "c++")
    (tmp_path / "bin" / "cmake").write_text("#!/bin/sh\necho cmake version 3.22.1\n")
    (tmp_path / "bin" / "cmake").chmod(0o755)
    assert "expected CMake 3.24 or later, got " in refusal(project, PATH=path, CXX="")


def test_no_torch_is_refused(project: Path, tmp_path: Path) -> None:
    interpreter = new_environment(tmp_path / "environment")
    for name in ("setuptools", "_distutils_hack", "pybind11"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (site_packages(interpreter) / name).symlink_to(Path(spec.origin).parent)
    error = refusal(project, interpreter)
    assert re.search(r"expected torch>=\S+ to be installed, got none. Run: pip install", error)


@pytest.mark.parametrize("version", ["2.9.1+cpu", "2.99.0a0+git1234567", "1.13.1"])
def test_another_torch_is_refused(project: Path, tmp_path: Path, version: str) -> None:
    (tmp_path / "torch" / "include").mkdir(parents=True)
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")
    error = refusal(project, SSLKERN_TORCH_DIR=str(tmp_path / "torch"))
    release = ".".join(version.split(".")[:2])
    assert re.search(rf"expected torch>=\S+, got torch {release} in .*Run: pip install", error)


def test_folder_without_torch_is_refused(project: Path, tmp_path: Path) -> None:
    error = refusal(project, SSLKERN_TORCH_DIR=str(tmp_path))
    assert f"SSLKERN_TORCH_DIR to be the folder of an installed torch, got {tmp_path}" in error


def test_a_source_archive_needs_no_tools(project: Path, tmp_path: Path) -> None:
    path = path_with(tmp_path / "bin")
    attempt(sys.executable, "setup.py", "-q", "sdist", folder=project, PATH=path, CXX="")
    assert len(list((project / "dist").glob("sslkern-*.tar.gz"))) == 1


def test_pip_shows_what_is_missing(project: Path, tmp_path: Path) -> None:
    """In few lines, before it asks for anything that the package depends on."""
    options = ("--no-build-isolation", "--no-index", "--target", tmp_path / "target")
    path = path_with(tmp_path / "bin", "cmake", "ninja")
    done = attempt(sys.executable, "-m", "pip", "install", *options, project, PATH=path, CXX="")
    assert done.returncode == 1
    shown = done.stdout + done.stderr
    assert "sslkern: expected a C++20 compiler" in shown
    assert "Traceback" not in shown
    assert "numpy" not in shown
    assert len(shown.splitlines()) < 25, shown
    assert not (tmp_path / "target").exists()


# ---- stubs of the compiled module


def test_stubs_are_those_of_the_compiled_module(tmp_path: Path) -> None:
    """Alone in a package without Python files, for mypy would read torch through the package's."""
    (tmp_path / "sslkern").mkdir()
    (tmp_path / "sslkern" / "__init__.pyi").touch()
    shutil.copy(ROOT / "sslkern" / "_C.pyi", tmp_path / "sslkern")
    command = (sys.executable, "-m", "mypy.stubtest", "sslkern._C")
    packages = str(Path(sslkern.__file__).parents[1])
    done = attempt(*command, folder=tmp_path, MYPYPATH=str(tmp_path), PYTHONPATH=packages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found in 1 module" in done.stdout


def test_stubs_have_the_signatures_that_pybind11_writes() -> None:
    """Which stubtest does not read: compiled functions have none for inspect."""
    text = (ROOT / "sslkern" / "_C.pyi").read_text()
    own = {
        f.name: f"{f.name}({ast.unparse(f.args)}) -> {ast.unparse(f.returns)}"
        for f in ast.parse(text).body
        if isinstance(f, ast.FunctionDef) and f.returns
    }
    written = {
        name: (value.__doc__ or "").splitlines()[0].replace("typing.", "").replace(" = ", "=")
        for name, value in vars(_extension.C).items()
        if callable(value)
    }
    own["build_config"] = own["build_config"].replace("dict[str, object]", "dict")
    assert own == written
