"""How the command trains a method: on what, with which batches, and what shows that it learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslkern.methods import Method

Option = float | int | str | bool
Measures = dict[str, float]
Batch = Callable[[Any, Tensor, torch.Generator], tuple[Tensor, ...]]
"""Samples, the indices (B,) of a batch among them, a generator -> arguments of the method."""


@dataclass(frozen=True)
class Evidence:
    """What shows that a method learned: a measure that training improves by a margin.

    Attributes:
        measure: One of those that the recipe takes.
        margin: Least gain over the same model before its first step.
        higher: Whether more is better; else the measure must fall by the margin.
    """

    measure: str
    margin: float
    higher: bool = True

    def gain(self, before: Measures, after: Measures) -> float:
        """How much better the measure is after training; negative if it is worse."""
        change = after[self.measure] - before[self.measure]
        return change if self.higher else -change

    def holds(self, before: Measures, after: Measures) -> bool:
        """Whether the gain reaches the margin; a measure that is no number is none."""
        return self.gain(before, after) >= self.margin


def adamw(method: Method, lr: float) -> Optimizer:
    """AdamW over everything that takes a gradient."""
    return torch.optim.AdamW(method.trainable(), lr=lr, weight_decay=1e-4)


def _nothing(method: Any, samples: Any, generator: torch.Generator) -> None:
    """Of a method that asks for nothing between epochs."""


@dataclass(frozen=True)
class Recipe:
    """A method as ``python -m sslkern train`` runs it.

    Attributes:
        title: The method's name, as in the paper.
        data: Names of the data sets that it can be trained on, the first by default.
        build: Samples of the training half and the options -> the method, in float32. Its random
            numbers come from torch's global generator, which is seeded.
        batch: What the method's forward pass is called with.
        measure: The method, both halves and a generator -> what is measured before and after
            training, each a number.
        evidence: What must have improved.
        options: Keyword arguments of ``build`` that a run can set, with their defaults.
        epochs: Of a whole run.
        quick: Epochs of ``--quick``: a few seconds.
        batch_size: Samples of a step.
        lr: Peak of the learning rate.
        optimizer: The method and the learning rate -> its optimizer.
        begin_epoch: Called before each epoch with the method, the training samples and a generator
            of the run: for methods that cluster.
        baselines: Name -> both halves and a generator -> the same measures of something that is
            not trained.
        embed: The method and samples -> embeddings (N, D) of two views of each, whose collapse is
            watched; None where there are no embeddings.
        pictures: The method, both halves and a folder -> PNGs in it, for what one would look at.
    """

    title: str
    data: tuple[str, ...]
    build: Callable[..., Method]
    batch: Batch
    measure: Callable[[Any, Any, Any, torch.Generator], Measures]
    evidence: Evidence
    options: Mapping[str, Option] = field(default_factory=dict)
    epochs: int = 100
    quick: int = 10
    batch_size: int = 128
    lr: float = 3e-3
    optimizer: Callable[[Method, float], Optimizer] = adamw
    begin_epoch: Callable[[Any, Any, torch.Generator], None] = _nothing
    baselines: Mapping[str, Callable[[Any, Any, torch.Generator], Measures]] = field(
        default_factory=dict
    )
    embed: Callable[[Any, Any], tuple[Tensor, Tensor]] | None = None
    pictures: Callable[[Any, Any, Any, Path], None] | None = None
