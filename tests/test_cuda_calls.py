"""How the operators reach CUDA kernels: what is refused, what is checked, and on which backend."""

from __future__ import annotations

import math
from collections.abc import Callable

import emulation
import pytest
import torch
from torch import Tensor

import sslkern
from sslkern.ops._extension import C

needs_emulation = pytest.mark.skipif(
    emulation.missing("simt") is not None, reason=str(emulation.missing("simt"))
)


def test_check_values_ends_with_its_block() -> None:
    assert not C.check_values()
    with sslkern.check_values():
        assert C.check_values()
        with sslkern.check_values(False):
            assert not C.check_values()
        assert C.check_values()
    assert not C.check_values()


def test_check_values_ends_with_an_error() -> None:
    def fail() -> None:
        raise KeyError

    with sslkern.check_values(), pytest.raises(KeyError):
        fail()
    assert not C.check_values()


def test_a_library_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sslkern::emulation: expected a library"):
        C.set_emulation(torch._C.__file__)


def test_the_build_says_what_cuda_kernels_there_are() -> None:
    config = sslkern.build_config()
    built = config["cuda_architectures"] != ""
    assert (config["cuda_kernels"] == "loaded") == built


@needs_emulation
def test_cpu_tensors_run_on_the_emulation_while_it_is_asked_for() -> None:
    library = emulation.library("simt")
    z = torch.eye(4)
    expected = sslkern.ntxent_loss(z, z)
    library.threads()
    library.start()
    try:
        emulated = sslkern.ntxent_loss(z, z)
        assert library.threads() > 0
    finally:
        library.stop()
    torch.testing.assert_close(emulated, expected)
    sslkern.ntxent_loss(z, z)
    assert library.threads() == 0
    assert not library.findings()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ntxent": lambda z, tau: sslkern.ntxent_loss(z, torch.eye(4), tau),
    "soft_cross_entropy": lambda z, tau: torch.ops.sslkern.soft_cross_entropy_fwd(
        z, torch.eye(4), tau, None, None
    )[0],
    "soft_cross_entropy of scores": lambda z, tau: torch.ops.sslkern.soft_cross_entropy_fwd(
        z, torch.eye(4), torch.tensor(0.1), tau, None
    )[0],
}


@needs_emulation
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_that_nobody_looks_at_gives_nan(name: str, temperature: float) -> None:
    library = emulation.library("simt")
    z = torch.eye(4, requires_grad=True)
    tau = torch.tensor(temperature)
    library.start()
    try:
        loss = LOSSES[name](z, tau)
        loss.sum().backward()
        with sslkern.check_values(), pytest.raises(ValueError, match="positive and finite"):
            LOSSES[name](z, tau)
    finally:
        library.stop()
    assert loss.isnan().all()
    assert z.grad is not None
    assert z.grad.isnan().all()


@needs_emulation
@pytest.mark.parametrize("bad", [-1, 5, 2**40, -(2**63), 2**63 - 1])
def test_an_index_that_nobody_looks_at_gives_nan(bad: int) -> None:
    """For its own logit and query; the table's gradient is that of all others."""
    library = emulation.library("simt")
    query = torch.arange(6.0).reshape(2, 3).requires_grad_()
    table = torch.arange(15.0).reshape(5, 3).requires_grad_()
    index = torch.tensor([[4, 1], [4, 1]])
    logits = sslkern.sampled_logits(query, table, index)
    (expected,) = torch.autograd.grad(logits.flatten()[[0, 2, 3]].sum(), table)
    index[0, 1] = bad
    library.start()
    try:
        found = sslkern.sampled_logits(query, table, index)
        found.sum().backward()
        with sslkern.check_values(), pytest.raises(ValueError, match="index to be of values"):
            sslkern.sampled_logits(query, table, index)
    finally:
        library.stop()
    assert not library.findings()
    assert found.isnan().tolist() == [[False, True], [False, False]]
    assert query.grad is not None
    assert query.grad.isnan().all(dim=1).tolist() == [True, False]
    torch.testing.assert_close(table.grad, expected)


@needs_emulation
@pytest.mark.parametrize("target", [4, -1, 2**40])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_that_nobody_looks_at_gives_nan(
    weighted: bool, reduction: str, target: int
) -> None:
    """And nothing is read behind the classes, of which there are four."""
    library = emulation.library("simt")
    x = torch.eye(4, requires_grad=True)
    targets = torch.tensor([0, target, 2, -100])
    class_weight = torch.ones(4) if weighted else None
    options = {"class_weight": class_weight, "reduction": reduction}
    library.start()
    try:
        loss = sslkern.linear_cross_entropy(x, torch.eye(4), targets, **options)
        loss.sum().backward()
        with sslkern.check_values(), pytest.raises(ValueError, match=r"target to be of values"):
            sslkern.linear_cross_entropy(x, torch.eye(4), targets, **options)
    finally:
        library.stop()
    assert not library.findings()
    bad = torch.tensor([False, True, False, False])
    assert loss.isnan().all() if reduction != "none" else torch.equal(loss.isnan(), bad)
    assert x.grad is not None
    assert x.grad[1].isnan().any()
    assert not x.grad[3].any()
