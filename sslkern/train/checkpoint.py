"""Checkpoints: written whole or not at all, read without running code, checked before use."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sslkern._files import write_atomic
from sslkern.train.config import ConfigError, TrainConfig

FILE_NAME = "checkpoint.pt"
FORMAT = "sslkern-train"
VERSION = 2
KEYS = {"config", "threads", "trainer"}


class CheckpointError(Exception):
    """A file that cannot be resumed from; the message names it and says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Where from, for messages.
        config: Settings of the run.
        threads: Threads of PyTorch, which decide the order of summation and so the last bits.
        trainer: `Trainer.state_dict`.
    """

    path: Path
    config: TrainConfig
    threads: int
    trainer: dict[str, Any]


def save_checkpoint(path: Path, config: TrainConfig, threads: int, trainer: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; replaced if it exists.
        config: Settings of the run.
        threads: Threads of PyTorch.
        trainer: `Trainer.state_dict`.

    Raises:
        OSError: If it cannot be written; an earlier checkpoint is then still there.
    """
    buffer = io.BytesIO()
    content = {"config": config.as_dict(), "threads": threads, "trainer": trainer}
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or that of a run folder.

    Raises:
        CheckpointError: If there is none, or it is damaged, foreign or of another version.
    """
    if path.is_dir():
        path = path / FILE_NAME
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of sslkern train")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {content.get('version')}, expected {VERSION}"
        )
    if not content.keys() >= KEYS:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(KEYS - content.keys()))}")
    try:
        config = TrainConfig(**content["config"])
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path} has settings of another kind: {error}") from None
    return Checkpoint(path, config, content["threads"], content["trainer"])


def _read(path: Path) -> Any:
    try:
        file = io.BytesIO(path.read_bytes())
        _check_sums(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # what is raised depends on where the damage is
        raise CheckpointError(
            f"{path} is truncated, damaged or not a checkpoint ({type(error).__name__})"
        ) from None


def _check_sums(file: io.BytesIO) -> None:
    """Compare the checksums of the zip archive, which `torch.load` does not look at."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
    file.seek(0)
