"""SupCon with labels: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench import ntxent
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Size,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.peers import import_peer

TEMPERATURE = 0.1
CLASSES = 100
"""As in ImageNet-100 and CIFAR-100."""


def labels_of(rows: int) -> Tensor:
    """Classes of the same size, their rows apart from each other."""
    return torch.arange(rows) % CLASSES


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor]:
    """Rows around the center of their class; not normalised."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, size.dim, generator=generator)
    noise = torch.randn(size.rows, size.dim, generator=generator)
    return ((centers[labels_of(size.rows)] + noise).to(dtype),)


def check_size(size: Size) -> None:
    """Any number of rows."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def _with_labels(loss_fn: LossFn) -> LossFn:
    return lambda z: loss_fn(z, labels_of(len(z)), TEMPERATURE)


def _load_pml(size: Size) -> LossFn:
    losses: Any = import_peer("pytorch-metric-learning", "pytorch_metric_learning.losses")
    loss_fn, labels = losses.SupConLoss(temperature=TEMPERATURE), labels_of(size.rows)
    return lambda z: loss_fn(z, labels)


CASE = Case(
    name="supcon",
    title=f"SupCon, {CLASSES} classes",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=_with_labels(reference.supcon_loss),
    reference_matrices=5.5,
    flops=ntxent.flops,  # the positives need no products of their own
    contenders=(
        *standard_contenders("supcon_loss", _with_labels, eager=5.5, compiled=1.5),
        loss_contender(
            "pytorch-metric-learning",
            "SupConLoss, eager",
            _load_pml,
            matrices=11.5,
            peer="pytorch-metric-learning",
        ),
        ntxent.FLOOR,
    ),
    default_sizes=(Size(4096, 128), Size(8192, 128)),
    peer_sizes=steps_of_four(128, 32768, 128),
)
