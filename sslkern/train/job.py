"""The whole job: data, training, measures, plots and summary of one run folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sslkern._files import write_atomic
from sslkern._version import __version__
from sslkern.data import LabelledImages, Samples, load_data
from sslkern.train.checkpoint import Checkpoint, CheckpointError
from sslkern.train.config import DTYPES, TrainConfig
from sslkern.train.engine import Record, Trainer, build_model, fit
from sslkern.train.images import RAW, image_features
from sslkern.train.plots import (
    plot_collapse,
    plot_embedding,
    plot_loss,
    watched,
    watched_names,
)
from sslkern.train.progress import TrainProgress
from sslkern.train.ranks import Ranks
from sslkern.train.recipe import Measures
from sslkern.train.report import print_report
from sslkern.train.seeds import generator

SUMMARY_NAME = "summary.json"
LOSS_PLOT_NAME = "loss.png"
COLLAPSE_PLOT_NAME = "collapse.png"
EMBEDDING_PLOT_NAME = "embedding.png"

UNTRAINED, TRAINED = "untrained", "trained"


@dataclass(frozen=True)
class Job:
    """One call of ``python -m sslkern train``.

    Attributes:
        config: What decides the result.
        folder: Run folder; exists.
        checkpoint: Where to go on from; None for a fresh run.
        stop_after: Step to stop after, if not at the end.
        checkpoint_every: Epochs from one checkpoint to the next.
        plots: Whether pictures are drawn.
    """

    config: TrainConfig
    folder: Path
    checkpoint: Checkpoint | None = None
    stop_after: int | None = None
    checkpoint_every: int = 10
    plots: bool = True


def run_job(
    job: Job, console: Console, progress_console: Console, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Train, measure, plot, write ``summary.json`` and print it.

    Args:
        job: What to do.
        console: Where the result is printed.
        progress_console: Where the progress is shown.
        ranks: The processes that train together and have all called this; the first one alone
            writes, measures and prints.

    Returns:
        The summary; nothing on other ranks than the first.

    Raises:
        ConfigError: If a batch is larger than the training half.
        CheckpointError: If the checkpoint does not fit.
        TrainingError: If the loss is not finite.
        ValueError: If the method refuses its options.
        OSError: If the run folder cannot be written to.
        LostRankError: If another rank has died.
    """
    start = time.perf_counter()
    ranks = Ranks() if ranks is None else ranks
    dtype = DTYPES[job.config.dtype]
    halves = load_data(job.config.data).split_half(generator(job.config.seed, "split"))
    train, test = (half.to(dtype) for half in halves)
    trainer = Trainer(job.config, train, ranks)
    if job.checkpoint is not None:
        _restore(trainer, job.checkpoint)
    ranks.of_first(lambda: _remove_stale(job))
    rate = _fit(trainer, job, progress_console)
    if not ranks.is_first:
        return {}
    # scikit-learn has pools of its own, which know nothing of torch's number of threads.
    with threadpool_limits(torch.get_num_threads()):
        measures = take_measures(trainer, train, test)
        if job.plots:
            _plot(trainer, train, test, job.folder)
    summary = _summary(trainer, train, test, measures)
    summary |= {"samples_per_second": rate, "seconds": time.perf_counter() - start}
    write_atomic(job.folder / SUMMARY_NAME, (json.dumps(summary, indent=2) + "\n").encode())
    print_report(summary, job.folder, console)
    return summary


def _remove_stale(job: Job) -> None:
    """A result must never lie beside the checkpoint of another run."""
    stale = [*job.folder.glob("*.png"), job.folder / SUMMARY_NAME]
    if job.checkpoint is None:
        stale += job.folder.glob("events.out.tfevents.*")
    for path in stale:
        path.unlink(missing_ok=True)


def take_measures(trainer: Trainer, train: Samples, test: Samples) -> dict[str, Measures]:
    """Of what is not trained, of the method before its first step, and of it as it is.

    A generator each, in the same state: the same labelled samples for all of them.
    """
    recipe, seed = trainer.recipe, trainer.config.seed
    found = {
        name: measure(train, test, generator(seed, "labels"))
        for name, measure in recipe.baselines.items()
    }
    untrained = build_model(trainer.config, train)
    for name, model in ((UNTRAINED, untrained), (TRAINED, trainer.model)):
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found[name] = recipe.measure(model, train, test, generator(seed, "labels"))
        model.train(was_training)
    return found


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    try:
        trainer.load_state_dict(checkpoint.trainer)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {error}") from None


def _fit(trainer: Trainer, job: Job, console: Console) -> float:
    epochs, steps_per_epoch = job.config.epochs, trainer.stream.steps_per_epoch
    with (
        TrainProgress(console, epochs, steps_per_epoch, trainer.step) as progress,
        _TensorBoard(job.folder if trainer.ranks.is_first else None) as board,
    ):

        def on_step(record: Record, rate: float) -> None:
            progress.step(record, rate)
            board.write(record)

        return fit(
            trainer,
            job.folder,
            stop_after=job.stop_after,
            checkpoint_every=job.checkpoint_every,
            on_step=on_step,
        )


class _TensorBoard:
    """Every number of every record, in the run folder; nothing where tensorboard is missing."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> _TensorBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, record: Record) -> None:
        for name, value in record.items():
            if self._writer is not None and name != "step":
                self._writer.add_scalar(name, value, record["step"])


def _plot(trainer: Trainer, train: Samples, test: Samples, folder: Path) -> None:
    config, recipe = trainer.config, trainer.recipe
    title = f"{recipe.title} on {config.data}, batch {config.batch_size}"
    plot_loss(trainer.history, title, folder / LOSS_PLOT_NAME)
    if watched(trainer.history):  # not where no epoch has ended
        plot_collapse(trainer.history, title, folder / COLLAPSE_PLOT_NAME)
    if (
        isinstance(train, LabelledImages)
        and isinstance(test, LabelledImages)
        and RAW in (recipe.baselines)
    ):
        encoders = {RAW: torch.nn.Flatten(), f"{recipe.title} encoder": trainer.model.encoder}
        plot_embedding(
            {name: image_features(x, train, test).test for name, x in encoders.items()},
            test.labels,
            test.classes,
            config.seed,
            f"t-SNE of the {len(test)} test images, which training has not seen",
            folder / EMBEDDING_PLOT_NAME,
        )
    if recipe.pictures is not None:
        trainer.model.eval()
        with torch.no_grad():
            recipe.pictures(trainer.model, train, test, folder)


def _summary(
    trainer: Trainer, train: Samples, test: Samples, measures: dict[str, Measures]
) -> dict[str, Any]:
    history, evidence = trainer.history, trainer.recipe.evidence
    gain = evidence.gain(measures[UNTRAINED], measures[TRAINED])
    return {
        "config": trainer.config.as_dict(),
        "title": trainer.recipe.title,
        "processes": trainer.ranks.size,
        "threads": torch.get_num_threads(),
        "versions": {"sslkern": __version__, "torch": torch.__version__},
        "train_samples": len(train),
        "test_samples": len(test),
        "measures": measures,
        "evidence": dataclasses.asdict(evidence) | {"gain": gain, "holds": gain >= evidence.margin},
        "collapse": _last_collapse(history),
        "steps": trainer.step,
        "total_steps": trainer.total_steps,
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
    }


def _last_collapse(history: list[Record]) -> dict[str, float]:
    found = watched(history)
    return {name: found[-1][name] for name in watched_names(found)} if found else {}
