"""Fixtures and inputs that the tests of every operator share, and which backends they run on."""

from __future__ import annotations

import gc
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest import mock

import emulation
import pytest
import torch
from torch import Tensor
from unlaunched import Unlaunched

import sslkern

# How many of the cases of one test function run on a backend; all on the others. What is emulated
# takes a thousand times as long.
MOST_CASES = {"simt": 3, "asan": 3, "ptx": 2}
DEFAULT = ["cpu", "simt", "ptx"]
DRAWS = ("rand", "randn", "randint", "randperm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        default=",".join([*DEFAULT, *(["cuda"] if torch.cuda.is_available() else [])]),
        help="comma-separated: cpu, cuda, simt, plain, asan, ptx",
    )
    parser.addoption("--every-case", action="store_true", help="emulate all cases of a test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu_only: of the CPU kernels alone")
    config.addinivalue_line(
        "markers", "not_emulated: it takes too long, or the kernels do not matter to it"
    )
    config.pluginmanager.register(Unlaunched(config))
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the cores are taken by other workers


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay: Python's collector, else a fifth of all time, leaves them out."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


def pytest_itemcollected(item: pytest.Item) -> None:
    """Workers share no fixtures: those of a file that builds some stay together."""
    if "backend" not in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group(item.location[0]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "backend" in metafunc.fixturenames and "backend" not in own:
        names = metafunc.config.getoption("--backends").split(",")
        metafunc.parametrize("backend", _backends_of(metafunc, names), indirect=True)


def _backends_of(metafunc: pytest.Metafunc, names: list[str]) -> list[str]:
    """An operator without CUDA kernels is made of PyTorch's own kernels, which nothing emulates.

    A module tests the operator of its name, or OPERATOR; or has BACKENDS, with all of its cases.
    """
    if hasattr(metafunc.module, "BACKENDS"):
        return [name for name in names if name in metafunc.module.BACKENDS]
    row = getattr(metafunc.module, "OPERATOR", metafunc.module.__name__.removeprefix("test_"))
    has_kernels = (emulation.CSRC / "cuda" / f"{row}.cu").exists()
    is_operator = (emulation.ROOT / "sslkern" / "ops" / f"{row}.py").exists()
    if not is_operator or metafunc.definition.get_closest_marker("cpu_only"):
        return [name for name in names if name == "cpu"]
    if not has_kernels or metafunc.definition.get_closest_marker("not_emulated"):
        return [name for name in names if name in ("cpu", "cuda")]
    return names


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a few cases of each test, evenly spaced, on the backends of MOST_CASES."""
    if config.getoption("--every-case"):
        return
    groups = defaultdict(list)
    for item in items:
        backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        if backend in MOST_CASES and not hasattr(item.module, "BACKENDS"):
            groups[item.location[0], item.originalname, backend].append(item)
    dropped = set()
    for (_, _, backend), cases in groups.items():
        most = MOST_CASES[backend]
        if len(cases) > most:
            kept = {round(k * (len(cases) - 1) / max(most - 1, 1)) for k in range(most)}
            dropped.update(item for k, item in enumerate(cases) if k not in kept)
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend under test; one that cannot run here is skipped and says why."""
    name: str = request.param
    if name in emulation.NAMES:
        yield from _emulated(name, request.node.nodeid)
    elif name == "cuda":
        torch.set_default_device("cuda")
        torch.empty(0)  # torch now looks up which functions the default is for, before they change
        draws = {name: _of_any_generator(getattr(torch, name)) for name in DRAWS}
        with sslkern.check_values(), mock.patch.multiple(torch, **draws):
            yield name
        torch.set_default_device(None)
    else:
        yield name


def _of_any_generator(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Where a generator is of the CPU, the same numbers as there: CUDA takes none but its own."""

    def draw(*args: Any, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        if generator is None:
            return function(*args, **options)
        if generator.device.type != "cpu":
            return function(*args, generator=generator, **options)
        device = options.pop("device", None) or torch.get_default_device()
        return function(*args, generator=generator, device="cpu", **options).to(device)

    return draw


def _emulated(name: str, test: str) -> Iterator[str]:
    """CPU tensors on emulated kernels, in a schedule of the test's own; nothing may be found."""
    reason = emulation.missing(name)
    if reason is not None:
        pytest.skip(reason)
    library = emulation.library(name)
    library.findings()
    library.schedule(zlib.crc32(test.encode()))
    library.start()
    with sslkern.check_values():
        yield name
    library.stop()
    findings = library.findings()
    assert not findings, "\n".join(findings)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
