"""Progress of a long run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Reporter:
    """Tells which size, contender and round is being worked on, on standard error.

    On a terminal this is one bar that is rewritten; in a log it is one line per phase, without
    the rounds.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Report on ``console``, by default on standard error."""
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            auto_refresh=False,  # its thread would run beside what is being timed
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1)

    def phase(self, text: str, steps: int = 1) -> None:
        """Begin a phase of ``steps`` steps."""
        self._bar.reset(self._task, description=text, total=steps)
        self._bar.refresh()
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)

    def advance(self) -> None:
        """One step done."""
        self._bar.advance(self._task)
        self._bar.refresh()

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar, also when interrupted."""
        self._bar.stop()
