"""Progress of training: a bar on a terminal, a line every few epochs elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sslkern._progress import LiveProgress
from sslkern.train.engine import Record

LINES_PER_RUN = 20


class TrainProgress(LiveProgress):
    """Shows epoch, loss (mean of the epoch so far) and samples per second.

    Args:
        console: Where to; its ``is_terminal`` decides between bar and lines.
        epochs: Epochs of the whole run.
        steps_per_epoch: Steps of each.
        done: Steps that a resumed run has behind it.
    """

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        """Prepare the bar; it shows on entering the context."""
        super().__init__(
            console,
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} samples/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._losses: list[float] = []
        total = epochs * steps_per_epoch
        self._task = self._bar.add_task(
            f"epoch {done // steps_per_epoch}/{epochs}",
            total=total,
            completed=done,
            loss=float("nan"),
            rate=0.0,
        )

    def step(self, record: Record, rate: float) -> None:
        """One step done, at ``rate`` samples per second."""
        epoch, in_epoch = int(record["epoch"]), (int(record["step"]) - 1) % self._steps_per_epoch
        self._losses = [*self._losses[-in_epoch:], record["loss"]] if in_epoch else [record["loss"]]
        loss = sum(self._losses) / len(self._losses)
        description = f"epoch {epoch}/{self._epochs}"
        self._bar.update(self._task, advance=1, description=description, loss=loss, rate=rate)
        stride = max(1, self._epochs // LINES_PER_RUN)
        if in_epoch + 1 == self._steps_per_epoch and (epoch % stride == 0 or epoch == self._epochs):
            self._line(f"{description}  loss {loss:.4f}  {rate:.0f} samples/s")
