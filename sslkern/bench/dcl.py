"""DCL: contenders; the inputs and the floor are those of NT-Xent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import sslkern
from sslkern import reference
from sslkern.bench import ntxent
from sslkern.bench.contenders import Case, LossFn, Size, UnavailableError, loss_contender
from sslkern.bench.peers import import_peer

TEMPERATURE = 0.1


def _load_sslkern(size: Size) -> LossFn:
    try:
        fused = sslkern.dcl_loss
    except (AttributeError, ImportError) as error:
        raise UnavailableError("not built: see python -m sslkern info") from error
    return lambda z_a, z_b: fused(z_a, z_b, TEMPERATURE)


def _eager(z_a: Tensor, z_b: Tensor) -> Tensor:
    return reference.dcl_loss(z_a, z_b, TEMPERATURE)


def _load_compile(size: Size) -> LossFn:
    return torch.compile(_eager, dynamic=False)


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.dcl_loss")
    loss_fn: LossFn = module.DCLLoss(temperature=TEMPERATURE)
    return loss_fn


def check_size(size: Size) -> None:
    """Two views of at least two samples."""
    ntxent.check_size(size)
    if size.rows < 4:
        raise ValueError(f"expected N in size {size} to be at least 4, got {size.rows}")


CASE = Case(
    name="dcl",
    title="DCL",
    make_inputs=ntxent.make_inputs,
    check_size=check_size,
    reference=_eager,
    reference_matrices=5,
    flops=ntxent.flops,
    contenders=(
        loss_contender("sslkern", "the fused kernel", _load_sslkern),
        loss_contender(
            "eager", "sslkern.reference, eager PyTorch", lambda size: _eager, matrices=5
        ),
        loss_contender(
            "compile",
            "torch.compile of the reference, one graph per size",
            _load_compile,
            matrices=1.5,
            compiles=True,
        ),
        loss_contender("lightly", "lightly.loss.DCLLoss, eager", _load_lightly, matrices=3),
        ntxent.FLOOR,
    ),
    default_sizes=(Size(4096, 128), Size(8192, 128)),
)
