"""The whole job: data, training, probes, plots and summary of one run folder."""

from __future__ import annotations

import dataclasses
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
from sslkern.data import Digits, load_digits, split_half
from sslkern.train.checkpoint import Checkpoint, CheckpointError
from sslkern.train.config import DTYPES, TrainConfig
from sslkern.train.engine import Trainer, build_model, fit
from sslkern.train.plots import plot_embedding, plot_loss
from sslkern.train.probe import DRAWS, FEW_LABELS, Features, encode, probe
from sslkern.train.progress import TrainProgress
from sslkern.train.report import print_report
from sslkern.train.seeds import generator

SUMMARY_NAME = "summary.json"
LOSS_PLOT_NAME = "loss.png"
EMBEDDING_PLOT_NAME = "embedding.png"

RAW, UNTRAINED, TRAINED = "raw pixels", "untrained encoder", "SimCLR encoder"


@dataclass(frozen=True)
class Job:
    """One call of ``python -m sslkern train``.

    Attributes:
        config: What decides the result.
        folder: Run folder; exists.
        checkpoint: Where to go on from; None for a fresh run.
        stop_after: Step to stop after, if not at the end.
        checkpoint_every: Epochs from one checkpoint to the next.
    """

    config: TrainConfig
    folder: Path
    checkpoint: Checkpoint | None = None
    stop_after: int | None = None
    checkpoint_every: int = 10


def run_job(job: Job, console: Console, progress_console: Console) -> None:
    """Train, probe, plot, write ``summary.json`` and print it.

    Raises:
        ConfigError: If a batch is larger than the training half.
        CheckpointError: If the checkpoint does not fit.
        TrainingError: If the loss is not finite.
        OSError: If the run folder cannot be written to.
    """
    start = time.perf_counter()
    train, test = split_half(load_digits(), generator(job.config.seed, "split"))
    trainer = Trainer(job.config, train.images)
    if job.checkpoint is not None:
        _restore(trainer, job.checkpoint)
    # A result must never lie beside the checkpoint of another run.
    for name in (SUMMARY_NAME, LOSS_PLOT_NAME, EMBEDDING_PLOT_NAME):
        (job.folder / name).unlink(missing_ok=True)
    rate = _fit(trainer, job, progress_console)
    # scikit-learn has pools of its own, which know nothing of torch's number of threads.
    with threadpool_limits(torch.get_num_threads()):
        features = collect_features(trainer, train, test)
        _plot(trainer, features, job.folder)
        summary = _summary(trainer, features)
    summary |= {"images_per_second": rate, "seconds": time.perf_counter() - start}
    write_atomic(job.folder / SUMMARY_NAME, (json.dumps(summary, indent=2) + "\n").encode())
    print_report(summary, job.folder, console)


def collect_features(trainer: Trainer, train: Digits, test: Digits) -> dict[str, Features]:
    """Features of both halves: pixels, the encoder before its first step, the encoder as it is."""
    dtype = DTYPES[trainer.config.dtype]
    images = [half.images.to(dtype) for half in (train, test)]
    encoders = {
        RAW: torch.nn.Flatten(),
        UNTRAINED: build_model(trainer.config).encoder,
        TRAINED: trainer.model.encoder,
    }
    features = {}
    for name, encoder in encoders.items():
        on_train, on_test = (encode(encoder, half) for half in images)
        features[name] = Features(on_train, train.labels, on_test, test.labels)
    return features


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    try:
        trainer.load_state_dict(checkpoint.trainer)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {error}") from None


def _fit(trainer: Trainer, job: Job, console: Console) -> float:
    epochs, steps_per_epoch = job.config.epochs, trainer.stream.steps_per_epoch
    with TrainProgress(console, epochs, steps_per_epoch, trainer.step) as progress:
        return fit(
            trainer,
            job.folder,
            stop_after=job.stop_after,
            checkpoint_every=job.checkpoint_every,
            on_step=progress.step,
        )


def _plot(trainer: Trainer, features: dict[str, Features], folder: Path) -> None:
    config = trainer.config
    title = f"SimCLR on digits, batch {config.batch_size}, temperature {config.temperature:g}"
    plot_loss(trainer.history, title, folder / LOSS_PLOT_NAME)
    plot_embedding(
        {name: features[name].test for name in (RAW, TRAINED)},
        features[TRAINED].test_labels,
        config.seed,
        f"t-SNE of the {len(features[TRAINED].test)} test images, which training has not seen",
        folder / EMBEDDING_PLOT_NAME,
    )


def _summary(trainer: Trainer, features: dict[str, Features]) -> dict[str, Any]:
    seed, history = trainer.config.seed, trainer.history
    return {
        "config": trainer.config.as_dict(),
        "threads": torch.get_num_threads(),
        "versions": {"sslkern": __version__, "torch": torch.__version__},
        "data": {
            "source": "sklearn.datasets.load_digits",
            "pretraining_images": len(features[TRAINED].train),
            "test_images": len(features[TRAINED].test),
            "probe_labels": FEW_LABELS,
            "probe_draws": DRAWS,
        },
        "accuracy": {
            # A generator each, in the same state: the same labelled images for all of them.
            name: dataclasses.asdict(probe(value, generator(seed, "labels")))
            for name, value in features.items()
        },
        "steps": trainer.step,
        "total_steps": trainer.total_steps,
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
    }
