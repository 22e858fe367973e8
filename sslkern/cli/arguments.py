"""Argument types and checks that several subcommands share."""

from __future__ import annotations

import argparse
import importlib
import math
import tempfile
from pathlib import Path

import torch

from sslkern.cli.errors import UserError

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def dtype(text: str) -> torch.dtype:
    """``float32`` -> ``torch.float32``."""
    try:
        return DTYPES[text]
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(DTYPES)}, got {text!r}"
        ) from None


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def words(text: str) -> tuple[str, ...]:
    """``a, b`` -> ``("a", "b")``; at least one."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise argparse.ArgumentTypeError("expected names separated by commas, got none")
    return found


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, float32 by default."""
    parser.add_argument(
        "--dtype",
        type=dtype,
        default=torch.float32,
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)}; default: float32",
    )


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """Add ``--repeats``, None where it is left to the measurement."""
    parser.add_argument(
        "--repeats",
        type=positive_int,
        metavar="R",
        help="timed rounds; default: as many as fit into a run of a few minutes",
    )


def require(module: str, extra: str) -> None:
    """Make sure that an optional package is there before any work is done.

    Raises:
        UserError: With the extra that installs it.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} does not import ({error}): pip install 'sslkern[{extra}]'"
        ) from None


def check_writable(path: Path) -> None:
    """Make the folder of an output file, and find out now whether a file can be written there.

    Raises:
        UserError: If not; an hour of measuring is not the time to find out.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
