"""A run of the whole suite that leaves a kernel out fails; others do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import emulation
import pytest
from unlaunched import Unlaunched

WHOLE, CHOSEN = pytest.Config.ArgsSource.TESTPATHS, pytest.Config.ArgsSource.ARGS


def plugin_of(source: Any = WHOLE, backends: str = "cpu,ptx", keyword: str = "") -> Unlaunched:
    option = SimpleNamespace(keyword=keyword, markexpr="", deselect=None, backends=backends)
    config: Any = SimpleNamespace(option=option, args_source=source)
    return Unlaunched(config)


def status_of(plugin: Unlaunched, before: pytest.ExitCode = pytest.ExitCode.OK) -> int:
    session: Any = SimpleNamespace(config=SimpleNamespace(), exitstatus=before)
    plugin.pytest_sessionfinish(session)
    return int(session.exitstatus)


@pytest.fixture(autouse=True)
def _no_ptx_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "LOADED", {})


def node(**output: Any) -> Any:
    return SimpleNamespace(workeroutput=output)


def test_kernel_that_no_process_launched_fails_the_run() -> None:
    plugin = plugin_of()
    plugin.pytest_testnodedown(node(unlaunched=["a", "b"]))
    plugin.pytest_testnodedown(node(unlaunched=["b", "c"]))
    plugin.pytest_testnodedown(node(unlaunched=None))  # it has loaded no PTX
    plugin.pytest_testnodedown(SimpleNamespace())  # it has died
    assert plugin.kernels == {"b"}
    assert status_of(plugin) == pytest.ExitCode.TESTS_FAILED
    assert status_of(plugin, pytest.ExitCode.INTERRUPTED) == pytest.ExitCode.INTERRUPTED


def test_run_that_launched_all_passes() -> None:
    plugin = plugin_of()
    plugin.pytest_testnodedown(node(unlaunched=["a"]))
    plugin.pytest_testnodedown(node(unlaunched=["b"]))
    assert status_of(plugin) == pytest.ExitCode.OK


def test_run_of_one_process_is_judged_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(unlaunched=lambda: ["a"])
    monkeypatch.setattr(emulation, "LOADED", {"ptx": library})
    assert status_of(plugin_of()) == pytest.ExitCode.TESTS_FAILED


def test_process_of_several_tells_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(unlaunched=lambda: ["a"])
    monkeypatch.setattr(emulation, "LOADED", {"ptx": library})
    config = SimpleNamespace(workeroutput={})
    session: Any = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)
    plugin_of().pytest_sessionfinish(session)
    assert config.workeroutput == {"unlaunched": ["a"]}
    assert session.exitstatus == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "given", [{"source": CHOSEN}, {"backends": "cpu"}, {"keyword": "ntxent"}], ids=str
)
def test_some_of_the_suite_need_not_launch_all(given: dict[str, Any]) -> None:
    plugin = plugin_of(**given)
    plugin.pytest_testnodedown(node(unlaunched=["a"]))
    assert status_of(plugin) == pytest.ExitCode.OK
