"""Fixtures and inputs that the tests of every operator share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=["cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend under test; one that cannot run here is skipped and says why."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
