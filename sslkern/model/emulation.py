"""The emulation of CUDA kernels, which a source checkout has and an installed package does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import sslkern
from sslkern.cli.errors import UserError

TESTS = Path(sslkern.__file__).parents[1] / "tests"


def library(shared_bytes: int) -> Any:
    """The kernels' PTX on the emulation, with the shared memory of a GPU.

    The emulation is of the tests, and stays theirs: it is built from sources beside them, which
    no wheel has.

    Raises:
        UserError: Without a checkout, nvcc or a C++ compiler.
    """
    module = _module()
    missing = module.missing("ptx")
    if missing is not None:
        raise UserError(f"expected nvcc and a C++ compiler to build the emulation, got: {missing}.")
    found = module.library("ptx")
    found.schedule(1, 1)  # counts do not depend on the order
    found.shared_bytes(shared_bytes)
    return found


def _module() -> Any:
    if not (TESTS / "emulation.py").exists():
        raise UserError(
            "expected a source checkout, which has the emulation of CUDA kernels, got an installed"
            f" package at {TESTS.parent}. Run from a checkout after `pip install -e .`."
        )
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module("emulation")
