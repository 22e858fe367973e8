"""Files are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sslkern._files import write_atomic


def test_write_replaces_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"earlier", b"later"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_written_file_may_be_read_like_any_other(tmp_path: Path) -> None:
    """Not only by its owner, as files of ``tempfile``."""
    write_atomic(tmp_path / "file", b"")
    (tmp_path / "plain").write_bytes(b"")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_write_that_is_interrupted_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"earlier")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]
