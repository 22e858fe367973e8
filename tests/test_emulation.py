"""Which PTX the emulation executes."""

from __future__ import annotations

import os
from pathlib import Path

import emulation
import pytest

SOURCE = emulation.CSRC / "cuda" / "gram.cu"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The PTX of one source in a build of its own; nvcc makes an empty one."""

    def compile_one(command: list[str], check: bool) -> None:
        Path(command[command.index("-o") + 1]).write_text("")

    monkeypatch.setattr(emulation, "KERNELS", [SOURCE])
    monkeypatch.setattr(emulation, "BUILD", tmp_path)
    monkeypatch.setattr(emulation, "FOLDER", tmp_path / "emulation")
    monkeypatch.setattr(emulation.subprocess, "run", compile_one)
    monkeypatch.setattr(emulation, "_dependencies", lambda source: [source])
    path = tmp_path / "ptx" / "gram.compute_90.ptx"
    path.parent.mkdir()
    path.write_text(".version 9.0")
    return path


def test_ptx_of_the_build_is_executed(kept: Path) -> None:
    assert emulation.ptx_files(90) == [kept]
    assert emulation.ptx_files(80) != [kept]


def test_ptx_older_than_its_source_is_made_anew(kept: Path) -> None:
    os.utime(kept, (0, SOURCE.stat().st_mtime - 1))
    (found,) = emulation.ptx_files(90)
    assert found.parent == emulation.FOLDER


def test_ptx_with_lines_is_made_anew(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = emulation.ptx_files(80)
    monkeypatch.setenv("SSLKERN_PTX_LINES", "1")
    assert emulation.ptx_files(90) != [kept]
    assert emulation.ptx_files(80) != without
