"""CUDA kernels in any schedule of their threads and blocks, and with less shared memory.

What a GPU leaves undefined, the emulation draws from a seed: a result that depends on it is no
result. Every operator that has kernels has cases in `CASES`, small ones with several tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import emulation
import pytest
import torch
from torch import Tensor

import sslkern
from sslkern.accuracy import assert_accurate

Results = dict[str, Tensor]

# A seed and the number of an order of csrc/platform/simt/runtime.h: random ones, then forward,
# reverse and warp by warp.
SCHEDULES = [*((seed, 0) for seed in range(1, 6)), (1, 1), (1, 2), (1, 3)]

MOST_SHARED = 99 << 10
"""Bytes that a block has on the smallest target."""

LESS_SHARED = (64 << 10) + (23 << 10)
"""What four chunks of a tile take, and the most that a kernel needs besides. Rows of three chunks
stay in `MOST_SHARED` and not here if a kernel needs something besides, of four if it needs nothing.
"""


def inputs(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_() for shape in shapes]


def with_gradients(loss: Tensor, **leaves: Tensor) -> Results:
    """The loss and its gradients, under an upstream gradient that differs from row to row."""
    grad = torch.linspace(0.5, 1.5, loss.numel()).reshape(loss.shape)
    loss.backward(grad.to(loss.dtype))
    return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


def ntxent(rows: int, dims: int, dtype: torch.dtype) -> Results:
    z_a, z_b = inputs((rows // 2, dims), (rows // 2, dims), dtype=dtype)
    tau = torch.tensor(0.1, requires_grad=True)
    loss = sslkern.ntxent_loss(z_a, z_b, tau, reduction="none")
    return with_gradients(loss, z_a=z_a, z_b=z_b, tau=tau)


def supcon(variant: str) -> Callable[[int, int, torch.dtype], Results]:
    def run(rows: int, dims: int, dtype: torch.dtype) -> Results:
        """A class of more than a tile of rows, and many small ones."""
        (z,) = inputs((rows, dims), dtype=dtype)
        tau = torch.tensor(0.1, requires_grad=True)
        place = torch.arange(rows)
        labels = torch.where(place < rows // 2, 0, place // 7)
        labels = labels[torch.randperm(rows, generator=torch.Generator().manual_seed(1))]
        loss = sslkern.supcon_loss(z, labels, tau, variant=variant, reduction="none")
        return with_gradients(loss, z=z, tau=tau)

    return run


def uniformity(rows: int, dims: int, dtype: torch.dtype) -> Results:
    (x,) = inputs((rows, dims), dtype=dtype)
    t = torch.tensor(2.0, requires_grad=True)
    return with_gradients(sslkern.uniformity(x, t), x=x, t=t)


class Case(NamedTuple):
    """A way to call an operator: with how many rows, and whether it walks along tiles of them."""

    run: Callable[[int, int, torch.dtype], Results]
    rows: int
    walks: bool = True


CASES = {
    "ntxent": Case(ntxent, 270),
    "supcon": Case(supcon("out"), 270),
    "supcon pairwise": Case(supcon("pairwise"), 270),
    "uniformity": Case(uniformity, 150),
}
"""By the name of the operator, and of the variant where it has several."""

WALKS = [name for name, case in CASES.items() if case.walks]


@pytest.fixture
def simt() -> Iterator[emulation.Emulation]:
    """CPU tensors on the emulated kernels; nothing may be found."""
    reason = emulation.missing("simt")
    if reason is not None:
        pytest.skip(reason)
    library = emulation.library("simt")
    library.findings()
    library.start()
    yield library
    library.stop()
    library.schedule(1)
    library.shared_bytes(MOST_SHARED)
    findings = library.findings()
    assert not findings, "\n".join(findings)


def test_every_operator_with_kernels_has_a_case() -> None:
    shared = {"packed"}
    rows = {path.stem for path in emulation.KERNELS} - shared
    assert rows == {name.split()[0] for name in CASES} & rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_results_are_bitwise_the_same_in_any_schedule(
    name: str, dtype: torch.dtype, simt: emulation.Emulation
) -> None:
    case = CASES[name]
    simt.threads()
    expected = case.run(case.rows, 20, dtype)
    assert simt.threads() > 0
    for seed, order in SCHEDULES:
        simt.schedule(seed, order)
        again = case.run(case.rows, 20, dtype)
        for result, value in expected.items():
            assert torch.equal(again[result], value), f"{result}, seed {seed}, order {order}"


@pytest.mark.parametrize("chunks", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WALKS)
def test_tiles_that_do_not_stay_in_shared_memory_give_the_same_numbers(
    name: str, dtype: torch.dtype, chunks: int, simt: emulation.Emulation
) -> None:
    """Copies are accesses, and there are more of them where rows are read again."""
    case, dims = CASES[name], chunks * 128 // dtype.itemsize
    runs, accesses = [], []
    for shared in (MOST_SHARED, LESS_SHARED):
        simt.shared_bytes(shared)
        simt.accesses()
        runs.append(case.run(case.rows, dims, dtype))
        accesses.append(simt.accesses())
    assert accesses[0] < accesses[1]
    for result, value in runs[0].items():
        assert_accurate(runs[1][result], value, value.double(), f"{name}, {result}")
