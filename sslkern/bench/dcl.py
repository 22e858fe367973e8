"""DCL: contenders; the inputs and the floor are those of NT-Xent."""

from __future__ import annotations

from typing import Any

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


def _at_temperature(loss_fn: LossFn) -> LossFn:
    return lambda z_a, z_b: loss_fn(z_a, z_b, TEMPERATURE)


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
    reference=_at_temperature(reference.dcl_loss),
    reference_matrices=5,
    flops=ntxent.flops,
    contenders=(
        *standard_contenders("dcl_loss", _at_temperature, eager=5, compiled=1.5),
        loss_contender(
            "lightly",
            "lightly.loss.DCLLoss, eager",
            _load_lightly,
            matrices=3,
            peer="lightly",
        ),
        ntxent.FLOOR,
    ),
    default_sizes=(Size(4096, 128), Size(8192, 128)),
    peer_sizes=steps_of_four(128, 32768, 128),
)
