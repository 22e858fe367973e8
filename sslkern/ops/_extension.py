"""Loads the compiled module, which registers the operators, or says why it cannot."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

_REMEDY = "Rebuild with: pip install --no-build-isolation --force-reinstall --no-deps sslkern"


def built_for() -> dict[str, str]:
    """The torch and Python versions that the module was built for."""
    path = Path(__file__).parents[1] / "_build_info.json"
    if not path.exists():
        raise ImportError(
            "sslkern: expected the compiled module beside the Python files, got none. "
            "Install with `pip install .` (or `pip install -e .`) from a checkout; "
            "a C++20 compiler is needed."
        )
    info: dict[str, str] = json.loads(path.read_text())
    return info


def _release(version: str) -> str:
    """'2.13.0+cpu' -> '2.13': what the C++ interface of torch is stable within."""
    return ".".join(version.split("+")[0].split(".")[:2])


def load() -> ModuleType:
    """Import ``sslkern._C``.

    Raises:
        ImportError: If it was not built, or was built for another torch than the one that runs.
    """
    built = built_for()["torch"]
    if _release(built) != _release(torch.__version__):
        raise ImportError(
            f"sslkern: expected torch {_release(built)} (built for {built}), "
            f"got torch {torch.__version__}. {_REMEDY}"
        )
    module = import_module("sslkern._C")
    kernels = Path(__file__).parents[1] / "libsslkern_cuda.so"
    if kernels.exists():
        module.set_cuda_library(str(kernels))
    return module


def register_fake(operator: str, fake: Callable[..., object]) -> None:
    """`torch.library.register_fake`, for all operators from here.

    It looks for the file that calls it, in all modules that are loaded and line by line: in an
    import that takes longer than the rest, once per file.

    A tensor without elements on the device "meta" beside others that have them would have the fake
    answer in place of the kernel, with memory that nobody has written.
    """
    op = operator.partition("::")[2]

    @functools.wraps(fake)
    def checked(*args: object) -> object:
        found = fake(*args)  # which may know the name of the one that is on another device
        devices = {x.device.type for x in _tensors(args)}
        if "meta" in devices and len(devices) > 1:
            raise ValueError(
                f"sslkern::{op}: expected all tensors to hold elements, got one on the meta device"
            )
        return found

    torch.library.register_fake(operator, checked)


def _tensors(args: Iterable[object]) -> Iterator[torch.Tensor]:
    for x in args:
        if isinstance(x, torch.Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from _tensors(x)


C = load()
