"""Progress of a long run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from sslkern._progress import LiveProgress


class Reporter(LiveProgress):
    """Tells which size, contender and round is being worked on, on standard error.

    On a terminal this is one bar that is rewritten; in a log it is one line per phase, without
    the rounds.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Report on ``console``, by default on standard error."""
        super().__init__(
            console or Console(stderr=True),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            transient=True,
            auto_refresh=False,  # its thread would run beside what is being timed
        )
        self._task = self._bar.add_task("starting", total=1)

    def phase(self, text: str, steps: int = 1) -> None:
        """Begin a phase of ``steps`` steps."""
        self._bar.reset(self._task, description=text, total=steps)
        self._bar.refresh()
        self._line(text)

    def advance(self) -> None:
        """One step done."""
        self._bar.advance(self._task)
        self._bar.refresh()
