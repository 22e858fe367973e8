"""The training loop: one step, its whole state, and the loop around it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sslkern._files import write_atomic
from sslkern.data import Samples
from sslkern.methods import Method
from sslkern.methods.parts.monitor import collapse_metrics
from sslkern.train.batches import Stream
from sslkern.train.checkpoint import FILE_NAME, save_checkpoint
from sslkern.train.config import DTYPES, ConfigError, TrainConfig
from sslkern.train.ranks import Ranks
from sslkern.train.recipes import load_recipe
from sslkern.train.seeds import derived_seed, generator, global_seed, step_seed

LOG_NAME = "log.jsonl"
WARMUP = 0.1
"""Share of the steps in which the learning rate rises linearly; a cosine to 0 follows."""
WATCHED = 256
"""Samples whose embeddings are looked at after every epoch."""

Record = dict[str, int | float]
"""Step (from 1), epoch (from 1), loss and learning rate; after an epoch's last step also how far
the embeddings are from collapse."""


class TrainingError(Exception):
    """A run that cannot go on; the message says what to change."""


class Trainer:
    """Method, optimiser, schedule and data stream of a run, one step at a time.

    Args:
        config: Settings of the run.
        samples: What the method is trained on; labels are not looked at, unless it is supervised.
        ranks: The processes that do the steps together, each of which has such a trainer.

    Raises:
        ConfigError: If a batch is larger than the samples.
        ValueError: If the method refuses its options.
    """

    def __init__(self, config: TrainConfig, samples: Samples, ranks: Ranks | None = None) -> None:
        """Build everything from the seed of the config."""
        if config.batch_size > len(samples):
            raise ConfigError(
                f"expected --batch-size to be at most {len(samples)}, the samples to train on, "
                f"got {config.batch_size}"
            )
        self.config = config
        self.ranks = Ranks() if ranks is None else ranks
        self.recipe = load_recipe(config.method)
        samples = samples.to(DTYPES[config.dtype])
        self.model = build_model(config, samples)
        self._spread = self.ranks.spread(self.model)
        self.stream = Stream(
            samples,
            self.recipe.batch,
            config.batch_size,
            generator(config.seed, "batches"),
            lambda source: self.recipe.begin_epoch(self.model, samples, source),
        )
        self.total_steps = config.epochs * self.stream.steps_per_epoch
        self.optimizer = self.recipe.optimizer(self.model, config.lr)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, self.total_steps)
        )
        self.history: list[Record] = []
        self._call: Callable[..., Tensor] = (
            torch.compile(self.model) if config.compile else self.model
        )
        self._watched = samples.take(torch.arange(min(len(samples), WATCHED)))

    @property
    def step(self) -> int:
        """Steps done so far."""
        return len(self.history)

    def run_step(self) -> Record:
        """Do one step and return its record.

        Raises:
            TrainingError: If the loss is not finite; the parameters are then unchanged.
        """
        with self._spread, global_seed(step_seed(self.config.seed, self.step)):
            loss = self._loss()
        record: Record = {
            "step": self.step + 1,
            "epoch": self.step // self.stream.steps_per_epoch + 1,
            "loss": loss.item(),
            "lr": float(self.scheduler.get_last_lr()[0]),
        }
        if not math.isfinite(record["loss"]):
            raise TrainingError(
                f"the loss is {record['loss']} at step {record['step']}: try a lower --lr"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self.model)
        self.optimizer.step()
        self.scheduler.step()
        self.model.update((self.step + 1) / self.total_steps)
        if (self.step + 1) % self.stream.steps_per_epoch == 0 and self.recipe.embed is not None:
            with self._spread:
                record |= collapse_metrics(*self.recipe.embed(self.model, self._watched))
        self.history.append(record)
        return record

    def _loss(self) -> Tensor:
        batch = self.stream.next_batch()
        amp = torch.autocast("cpu", torch.bfloat16) if self.config.amp else contextlib.nullcontext()
        with amp:
            return self._call(*batch)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and the history."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stream": self.stream.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved trainer stopped."""
        for name in ("model", "optimizer", "scheduler", "stream"):
            getattr(self, name).load_state_dict(state[name])
        self.history = list(state["history"])


def build_model(config: TrainConfig, samples: Samples) -> Method:
    """The method before its first step; torch's global generator is left as it was."""
    with global_seed(derived_seed(config.seed, "weights")):
        model = load_recipe(config.method).build(samples, **config.options)
    return model.to(DTYPES[config.dtype])


def lr_factor(step: int, total_steps: int) -> float:
    """Learning rate of a step (from 0) relative to its peak: linear rise, then cosine to 0."""
    warmup = max(1, round(WARMUP * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def fit(
    trainer: Trainer,
    folder: Path,
    *,
    stop_after: int | None = None,
    checkpoint_every: int = 10,
    on_step: Callable[[Record, float], None] = lambda record, rate: None,
) -> float:
    """Train to the end, with a log and checkpoints in ``folder``.

    The first checkpoint is written before the first step, so that a run can be resumed from any
    moment on and never from the checkpoint of an earlier run in the same folder.

    Args:
        trainer: Fresh or resumed.
        folder: An existing folder; gets ``log.jsonl``, one record a line, and ``checkpoint.pt``, of
            the first rank alone.
        stop_after: Stop at this step of the run, if its end is not earlier.
        checkpoint_every: Epochs from one checkpoint to the next.
        on_step: Called after each step with its record and the samples per second so far, on the
            first rank.

    Returns:
        Samples (not views) per second; 0 if there was nothing to do.

    Raises:
        TrainingError: If the loss is not finite.
        OSError: If the folder cannot be written to.
        LostRankError: If another rank has died.
    """
    last = min(trainer.total_steps, stop_after or trainer.total_steps)
    period = checkpoint_every * trainer.stream.steps_per_epoch
    samples, rate, start = 0, 0.0, time.perf_counter()
    with contextlib.closing(_Files(trainer, folder, on_step)) as files:
        trainer.ranks.of_first(files.begin)
        trainer.model.train()
        while trainer.step < last:
            record = trainer.run_step()
            samples += trainer.config.batch_size
            rate = samples / (time.perf_counter() - start)
            saves = trainer.step % period == 0 or trainer.step == last
            trainer.ranks.of_first(partial(files.add, record, rate, saves))
    return rate


class _Files:
    """Log and checkpoint of a run, which the first rank writes."""

    def __init__(
        self, trainer: Trainer, folder: Path, on_step: Callable[[Record, float], None]
    ) -> None:
        self._trainer = trainer
        self._folder = folder
        self._on_step = on_step
        self._log: IO[str] | None = None

    def begin(self) -> None:
        # What is logged past the checkpoint will be done again: rewrite, then append.
        lines = "".join(json.dumps(record) + "\n" for record in self._trainer.history)
        write_atomic(self._folder / LOG_NAME, lines.encode())
        self.save()
        self._log = (self._folder / LOG_NAME).open("a", buffering=1, encoding="utf-8")

    def add(self, record: Record, rate: float, saves: bool) -> None:
        assert self._log is not None
        self._log.write(json.dumps(record) + "\n")
        self._on_step(record, rate)
        if saves:
            self.save()

    def save(self) -> None:
        trainer, threads = self._trainer, torch.get_num_threads()
        state = trainer.state_dict()
        save_checkpoint(self._folder / FILE_NAME, trainer.config, threads, state)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
