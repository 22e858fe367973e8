"""A plugin of pytest: a run of the whole suite fails if it launched some kernel's PTX nowhere.

Whatever else is said of a kernel that no test launches, nobody knows that its numbers are right.
"""

from __future__ import annotations

from typing import Any

import cuda_static
import emulation
import pytest

_KEY = "unlaunched"


class Unlaunched:
    """The kernels that no process of the run has launched; None: none has loaded their PTX."""

    def __init__(self, config: pytest.Config) -> None:
        self.kernels: set[str] | None = None
        chosen = config.option.keyword or config.option.markexpr or config.option.deselect
        everything = config.args_source == pytest.Config.ArgsSource.TESTPATHS and not chosen
        self.must_be_none = everything and "ptx" in config.option.backends.split(",")

    def add(self, kernels: list[str] | None) -> None:
        """What one process has not launched."""
        if kernels is not None:
            before = kernels if self.kernels is None else self.kernels
            self.kernels = set(kernels).intersection(before)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """From a process of pytest-xdist that has ended, or, without output, died."""
        self.add(getattr(node, "workeroutput", {}).get(_KEY))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Of a process that runs tests: tells it; of the one that has all results: judges."""
        library = emulation.LOADED.get("ptx")
        own = None if library is None else library.unlaunched()
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_KEY] = own
            return
        self.add(own)
        if self.must_be_none and self.kernels and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Names them, where all should have been launched."""
        if self.must_be_none and self.kernels:
            terminalreporter.section("kernels that no test launched")
            for name in sorted(cuda_static.demangled(sorted(self.kernels))):
                terminalreporter.line(name)
