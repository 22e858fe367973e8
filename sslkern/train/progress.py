"""Progress of training: a bar on a terminal, a line every few epochs elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sslkern.train.engine import Record

LINES_PER_RUN = 20


class TrainProgress:
    """Shows epoch, loss (mean of the epoch so far) and images per second.

    Args:
        console: Where to; its ``is_terminal`` decides between bar and lines.
        epochs: Epochs of the whole run.
        steps_per_epoch: Steps of each.
        done: Steps that a resumed run has behind it.
    """

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        """Prepare the bar; it shows on entering the context."""
        self._console = console
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._losses: list[float] = []
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        total = epochs * steps_per_epoch
        self._task = self._bar.add_task(
            f"epoch {done // steps_per_epoch}/{epochs}",
            total=total,
            completed=done,
            loss=float("nan"),
            rate=0.0,
        )

    def step(self, record: Record, rate: float) -> None:
        """One step done, at ``rate`` images per second."""
        epoch, in_epoch = int(record["epoch"]), (int(record["step"]) - 1) % self._steps_per_epoch
        self._losses = [*self._losses[-in_epoch:], record["loss"]] if in_epoch else [record["loss"]]
        loss = sum(self._losses) / len(self._losses)
        description = f"epoch {epoch}/{self._epochs}"
        self._bar.update(self._task, advance=1, description=description, loss=loss, rate=rate)
        if in_epoch + 1 == self._steps_per_epoch and not self._console.is_terminal:
            self._line(epoch, f"{description}  loss {loss:.4f}  {rate:.0f} images/s")

    def _line(self, epoch: int, text: str) -> None:
        if epoch % max(1, self._epochs // LINES_PER_RUN) == 0 or epoch == self._epochs:
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
