"""InfoNCE against a queue, as in MoCo: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Size,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.peers import import_peer
from sslkern.bench.products import sgemm_floor

TEMPERATURE = 0.2
QUEUE = 65536
"""Negatives, as in MoCo."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, their keys by another encoder, and a queue of earlier keys, which have unit norm."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows, size.dim)
    shared, noise_q, noise_k = (torch.randn(shape, generator=generator) for _ in range(3))
    queue = F.normalize(torch.randn(QUEUE, size.dim, generator=generator))
    return (shared + noise_q).to(dtype), (shared + noise_k).to(dtype), queue.to(dtype)


def check_size(size: Size) -> None:
    """Any number of queries."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of one pass over the queue: the similarities, and the gradient of the queries.

    The queries alone have a gradient, and it can be formed while the similarities are there: two
    products of N x D x QUEUE.
    """
    return 4 * size.rows * QUEUE * size.dim


def call(loss_fn: LossFn) -> LossFn:
    """With the temperature of the case."""
    return lambda query, key, queue: loss_fn(query, key, queue, temperature=TEMPERATURE)


def _load_info_nce_pytorch(size: Size) -> LossFn:
    module: Any = import_peer("info-nce-pytorch", "info_nce")
    loss_fn: LossFn = module.InfoNCE(temperature=TEMPERATURE, negative_mode="unpaired")
    return loss_fn


CASE = Case(
    name="info_nce",
    title=f"InfoNCE, {QUEUE} negatives",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=call(reference.info_nce_loss),
    reference_matrices=3.6,
    flops=flops,
    columns=lambda size: QUEUE,
    gradients=1,
    contenders=(
        *standard_contenders("info_nce_loss", call, eager=3.6, compiled=1.5),
        loss_contender(
            "info-nce-pytorch",
            'info_nce.InfoNCE(negative_mode="unpaired")',
            _load_info_nce_pytorch,
            matrices=4.6,
            peer="info-nce-pytorch",
        ),
        sgemm_floor(keys=2, both=False),
    ),
    default_sizes=(Size(256, 128),),
    peer_sizes=steps_of_four(16, 4096, 128),
)
