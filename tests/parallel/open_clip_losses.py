"""open_clip's losses where its package does not import: it needs torchvision, they do not."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import pytest


def open_clip_losses() -> Any:
    """``open_clip.loss``, as the package or in an empty one; the test is skipped without either."""
    if "open_clip.loss" in sys.modules:
        return sys.modules["open_clip.loss"]
    try:
        return importlib.import_module("open_clip.loss")
    except ImportError:
        pass
    try:
        files = importlib.metadata.distribution("open_clip_torch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: pip install --no-deps open_clip_torch")
    package = ModuleType("open_clip")
    package.__path__ = [str(files.locate_file("open_clip"))]
    sys.modules["open_clip"] = package
    return importlib.import_module("open_clip.loss")
