"""Which PTX the emulation executes."""

from __future__ import annotations

import os
from pathlib import Path

import cuda_static
import emulation
import pytest

SOURCE = emulation.CSRC / "cuda" / "gram.cu"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one source, newer than it; nvcc and cuobjdump make empty PTX."""

    def compile_one(command: list[str | Path], check: bool) -> None:
        Path(command[command.index("-o") + 1]).touch()

    def extract(name: str, *arguments: object, folder: Path) -> None:
        (folder / "library.1.sm_80.ptx").touch()

    monkeypatch.setattr(emulation, "KERNELS", [SOURCE])
    monkeypatch.setattr(emulation, "FOLDER", tmp_path)
    monkeypatch.setattr(emulation.simt_build.subprocess, "run", compile_one)
    monkeypatch.setattr(emulation.simt_build, "dependencies", lambda source: [source])
    monkeypatch.setattr(cuda_static, "LIBRARY", tmp_path / "library.so")
    monkeypatch.setattr(cuda_static, "output_of", extract)
    monkeypatch.setattr(cuda_static, "tool", lambda name: Path(name))
    cuda_static.LIBRARY.touch()
    return cuda_static.LIBRARY


def is_made_anew() -> bool:
    (found,) = emulation.ptx_files()
    return found.name.startswith("gram-")


def test_ptx_of_the_library_is_executed(library: Path) -> None:
    assert not is_made_anew()
    assert not is_made_anew()  # extracted before


def test_ptx_of_a_library_older_than_its_source_is_made_anew(library: Path) -> None:
    os.utime(library, (0, SOURCE.stat().st_mtime - 1))
    assert is_made_anew()


def test_ptx_is_made_anew_without_a_library(library: Path) -> None:
    library.unlink()
    assert is_made_anew()


def test_ptx_with_lines_is_made_anew(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKERN_PTX_LINES", "1")
    assert is_made_anew()
