"""A loss on the emulation, counted, a pass at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sslkern.model.counts import Counts, counts_of
from sslkern.model.work import PASSES
from sslkern.ops._extension import C


@dataclass(frozen=True)
class Run:
    """Counts of each pass by kernel, and the operations of the library's products."""

    kernels: dict[str, dict[str, Counts]]
    product_flop: dict[str, float]
    lines: list[dict[str, Any]]


def run(
    library: Any,
    loss_fn: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    gradients: int | None = None,
    before: Callable[[str], None] = lambda part: None,
) -> Run:
    """Forward, and backward where there is one.

    Args:
        library: The emulation.
        loss_fn: Of the inputs.
        inputs: The first ones are leaves.
        gradients: How many of them get a gradient: all by default.
        before: Called before each pass with its name.

    Raises:
        RuntimeError: If the emulation finds a fault.
    """
    leaves = [x.detach().requires_grad_() for x in inputs[:gradients]]
    kernels, flop, lines = {}, {}, []
    library.start()
    try:
        loss = None
        for name in PASSES:
            before(name)
            library.count(True)
            flop_before = C.product_flop()
            if loss is None:
                loss = loss_fn(*leaves, *inputs[len(leaves) :])
            elif loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            flop[name] = C.product_flop() - flop_before
            launches = library.counts()
            library.count(False)
            kernels[name] = counts_of(launches)
            lines += [
                line | {"kernel": kernel} for kernel, x in launches.items() for line in x["lines"]
            ]
    finally:
        library.stop()
    findings = library.findings()
    if findings:
        raise RuntimeError("sslkern::model: expected kernels without findings, got " + findings[0])
    return Run(kernels, flop, lines)
