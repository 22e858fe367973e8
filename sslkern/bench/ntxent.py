"""NT-Xent: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    Contender,
    LossFn,
    Problem,
    Size,
    Step,
    UnavailableError,
    loss_contender,
    standard_contenders,
    steps_of_four,
    working_dtype,
)
from sslkern.bench.peers import import_peer

TEMPERATURE = 0.5

PML_MAX_ROWS = 512
"""pytorch-metric-learning compares every positive pair with every negative pair: N x N(N-2) masks.
That is 2.1 GiB at N = 512 (measured) and 64 times as much at N = 2048."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two correlated views, as an encoder under training gives them; not normalised."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows // 2, size.dim)
    shared, noise_a, noise_b = (torch.randn(shape, generator=generator) for _ in range(3))
    return (shared + noise_a).to(dtype), (shared + noise_b).to(dtype)


def check_size(size: Size) -> None:
    """Two views of the same samples: an even number of rows."""
    if size.rows < 2 or size.rows % 2:
        raise ValueError(
            f"expected N in size {size} to be even and at least 2 (two views of N/2 samples),"
            f" got {size.rows}"
        )
    if size.dim < 1:
        raise ValueError(f"expected D in size {size} to be at least 1, got {size.dim}")


def flops(size: Size) -> int:
    """Operations of the symmetric algorithm, which evaluates half of S = Z Z^T at a time.

    Forward: half of S, N^2 D. Backward: the same half again (S is not stored) and its product
    with Z on both sides, N^2 D + 2 N^2 D. Together 4 N^2 D: as many as two full N x D x N products.
    """
    return 4 * size.rows * size.rows * size.dim


def call(loss_fn: LossFn) -> LossFn:
    """With the temperature of the case."""
    return lambda z_a, z_b: loss_fn(z_a, z_b, TEMPERATURE)


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.ntx_ent_loss")
    loss_fn: LossFn = module.NTXentLoss(temperature=TEMPERATURE)
    return loss_fn


def _load_pml(size: Size) -> LossFn:
    if size.rows > PML_MAX_ROWS:
        raise UnavailableError(
            f"its memory grows with N^3 (2.1 GiB at N = 512); run up to N = {PML_MAX_ROWS}"
        )
    losses: Any = import_peer("pytorch-metric-learning", "pytorch_metric_learning.losses")
    loss_fn: LossFn = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=TEMPERATURE))
    return loss_fn


def _load_linear_cross_entropy(size: Size) -> LossFn:
    raise UnavailableError(
        "torch's F.linear_cross_entropy has one bias per class and no mask per row and class,"
        " so a row cannot be left out of its own denominator: another loss"
    )


def _prepare_two_sgemm(problem: Problem) -> Step:
    """Two N x D x N products into one buffer: the arithmetic of `flops`, with no loss around it."""
    z = torch.cat(problem.inputs).to(working_dtype(problem.dtype))
    z_t = z.t()
    out = z.new_empty(z.shape[0], z.shape[0])

    def step() -> None:
        torch.mm(z, z_t, out=out)
        torch.mm(z, z_t, out=out)

    return step


FLOOR = Contender(
    "two sgemm",
    "two N x D x N products into one buffer: a floor",
    _prepare_two_sgemm,
    matrices=1,
    is_floor=True,
)
"""Of every loss that compares rows with each other."""

CASE = Case(
    name="ntxent",
    title="NT-Xent",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=call(reference.ntxent_loss),
    reference_matrices=3.5,
    flops=flops,
    contenders=(
        *standard_contenders("ntxent_loss", call, eager=3.5, compiled=1.5),
        loss_contender(
            "lightly", "lightly.loss.NTXentLoss", _load_lightly, matrices=4.5, peer="lightly"
        ),
        loss_contender(
            "pytorch-metric-learning",
            "SelfSupervisedLoss(NTXentLoss), N <= 512",
            _load_pml,
            peer="pytorch-metric-learning",
        ),
        loss_contender(
            "linear_cross_entropy",
            "torch.nn.functional.linear_cross_entropy",
            _load_linear_cross_entropy,
        ),
        FLOOR,
    ),
    default_sizes=(Size(2048, 128), Size(8192, 128), Size(4096, 512)),
    peer_sizes=steps_of_four(128, 32768, 128),
)
