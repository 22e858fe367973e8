"""The processes that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.hookimpl(trylast=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """One worker runs them all, for the processes are its own."""
    if item.path.parent.name == "parallel":
        item.own_markers = [m for m in item.own_markers if m.name != "xdist_group"]
        item.add_marker(pytest.mark.xdist_group("parallel"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    processes = Ranks()
    yield processes
    processes.close()
