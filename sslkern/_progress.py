"""What the progress of a benchmark and of training share."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn


class LiveProgress:
    """A bar that is rewritten on a terminal; elsewhere, in a log, lines.

    Args:
        console: Where to; its ``is_terminal`` decides between bar and lines.
        columns: Of the bar.
        transient: Whether the bar is gone in the end.
        auto_refresh: Whether a thread keeps the bar up to date.
    """

    def __init__(
        self,
        console: Console,
        *columns: ProgressColumn,
        transient: bool = False,
        auto_refresh: bool = True,
    ) -> None:
        """Prepare the bar; it shows on entering the context."""
        self._console = console
        self._bar = Progress(
            *columns,
            console=console,
            transient=transient,
            auto_refresh=auto_refresh,
            disable=not console.is_terminal,
        )

    def _line(self, text: str) -> None:
        """Print where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)

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
        """Let go of the terminal, also when interrupted."""
        self._bar.stop()
