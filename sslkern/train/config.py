"""The settings that decide the result of a run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

METHODS = ("simclr",)
DATA = ("digits",)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
LOSSES = ("fused", "reference")


class ConfigError(ValueError):
    """A setting that is out of its range; the message names it as the command line does."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; the same settings on the same number of threads give the same bits.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    method: str = "simclr"
    data: str = "digits"
    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    temperature: float = 0.5
    seed: int = 0
    dtype: str = "float32"
    loss: str = "fused"

    def __post_init__(self) -> None:
        """Check every range."""
        _check(self.method in METHODS, "method", f"one of {METHODS}", self.method)
        _check(self.data in DATA, "data", f"one of {DATA}", self.data)
        _check(self.dtype in DTYPES, "dtype", f"one of {tuple(DTYPES)}", self.dtype)
        _check(self.loss in LOSSES, "loss", f"one of {LOSSES}", self.loss)
        _check(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _check(self.batch_size >= 2, "batch-size", "at least 2", self.batch_size)
        _check(0 < self.lr < math.inf, "lr", "positive and finite", self.lr)
        positive = 0 < self.temperature < math.inf
        _check(positive, "temperature", "positive and finite", self.temperature)
        _check(0 <= self.seed < 2**32, "seed", "between 0 and 2^32 - 1", self.seed)

    def as_dict(self) -> dict[str, str | int | float]:
        """The settings as plain values, in the order of the fields."""
        return dataclasses.asdict(self)


def _check(ok: bool, name: str, requirement: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"expected --{name} to be {requirement}, got {got}")
