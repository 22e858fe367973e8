"""The training loop: one step, its whole state, and the loop around it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslkern import ops, reference
from sslkern._files import write_atomic
from sslkern.methods.simclr import Loss, SimCLR
from sslkern.train.batches import PairStream
from sslkern.train.checkpoint import FILE_NAME, save_checkpoint
from sslkern.train.config import DTYPES, ConfigError, TrainConfig
from sslkern.train.encoder import DigitEncoder
from sslkern.train.seeds import derived_seed, generator

LOG_NAME = "log.jsonl"
PROJECTION_DIM = 64
WEIGHT_DECAY = 1e-4
WARMUP = 0.1
"""Share of the steps in which the learning rate rises linearly; a cosine to 0 follows."""

Record = dict[str, int | float]
"""Step (from 1), epoch (from 1), loss and learning rate."""


class TrainingError(Exception):
    """A run that cannot go on; the message says what to change."""


class Trainer:
    """Model, optimiser, schedule and data stream of a run, one step at a time.

    Args:
        config: Settings of the run.
        images: (N, 1, 8, 8) in [0, 1]; what the encoder is trained on, without labels.

    Raises:
        ConfigError: If a batch is larger than N.
    """

    def __init__(self, config: TrainConfig, images: Tensor) -> None:
        """Build everything from the seed of the config."""
        if config.batch_size > len(images):
            raise ConfigError(
                f"expected --batch-size to be at most {len(images)}, the images to train on, "
                f"got {config.batch_size}"
            )
        dtype = DTYPES[config.dtype]
        batches = generator(config.seed, "batches")
        self.config = config
        self.stream = PairStream(images.to(dtype), config.batch_size, batches)
        self.model = build_model(config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=WEIGHT_DECAY
        )
        self.total_steps = config.epochs * self.stream.steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, self.total_steps)
        )
        self.history: list[Record] = []

    @property
    def step(self) -> int:
        """Steps done so far."""
        return len(self.history)

    def run_step(self) -> Record:
        """Do one step and return its record.

        Raises:
            TrainingError: If the loss is not finite; the parameters are then unchanged.
        """
        loss: Tensor = self.model(*self.stream.next_pair())
        record: Record = {
            "step": self.step + 1,
            "epoch": self.step // self.stream.steps_per_epoch + 1,
            "loss": loss.item(),
            "lr": float(self.scheduler.get_last_lr()[0]),
        }
        if not math.isfinite(record["loss"]):
            raise TrainingError(
                f"the loss is {record['loss']} at step {record['step']}: try a lower --lr "
                "or a higher --temperature"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.scheduler.step()
        self.history.append(record)
        return record

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


def build_model(config: TrainConfig) -> SimCLR:
    """The model of a run before its first step; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        encoder = DigitEncoder()
        model = SimCLR(
            encoder,
            encoder.feature_dim,
            projection_dim=PROJECTION_DIM,
            temperature=config.temperature,
            loss=loss_function(config.loss),
        )
    return model.to(DTYPES[config.dtype])


def loss_function(name: str) -> Loss:
    """NT-Xent as the fused kernel or as its definition in eager PyTorch."""
    return reference.ntxent_loss if name == "reference" else ops.ntxent_loss


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
        folder: An existing folder; gets ``log.jsonl``, one record a line, and ``checkpoint.pt``.
        stop_after: Stop at this step of the run, if its end is not earlier.
        checkpoint_every: Epochs from one checkpoint to the next.
        on_step: Called after each step with its record and the images per second so far.

    Returns:
        Images (not views) per second; 0 if there was nothing to do.

    Raises:
        TrainingError: If the loss is not finite.
        OSError: If the folder cannot be written to.
    """
    last = min(trainer.total_steps, stop_after or trainer.total_steps)
    period = checkpoint_every * trainer.stream.steps_per_epoch
    checkpoint = folder / FILE_NAME
    threads = torch.get_num_threads()
    # What is logged past the checkpoint will be done again: rewrite, then append.
    lines = "".join(json.dumps(record) + "\n" for record in trainer.history)
    write_atomic(folder / LOG_NAME, lines.encode())
    save_checkpoint(checkpoint, trainer.config, threads, trainer.state_dict())
    images, rate, start = 0, 0.0, time.perf_counter()
    trainer.model.train()
    with (folder / LOG_NAME).open("a", buffering=1, encoding="utf-8") as log:
        while trainer.step < last:
            record = trainer.run_step()
            log.write(json.dumps(record) + "\n")
            images += trainer.config.batch_size
            rate = images / (time.perf_counter() - start)
            on_step(record, rate)
            if trainer.step % period == 0 or trainer.step == last:
                save_checkpoint(checkpoint, trainer.config, threads, trainer.state_dict())
    return rate
