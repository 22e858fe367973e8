"""How the operators reach CUDA kernels: what is refused, what is checked, and on which backend."""

from __future__ import annotations

import math

import emulation
import pytest
import torch

import sslkern
from sslkern.ops._extension import C

needs_emulation = pytest.mark.skipif(
    emulation.missing("plain") is not None, reason=str(emulation.missing("plain"))
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
    library = emulation.library("plain")
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


@needs_emulation
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_nobody_looks_at_gives_nan(temperature: float) -> None:
    library = emulation.library("plain")
    z_a = torch.eye(4, requires_grad=True)
    library.start()
    try:
        loss = sslkern.ntxent_loss(z_a, torch.eye(4), torch.tensor(temperature))
        loss.backward()
        with sslkern.check_values(), pytest.raises(ValueError, match="positive and finite"):
            sslkern.ntxent_loss(z_a, z_a, torch.tensor(temperature))
    finally:
        library.stop()
    assert loss.isnan()
    assert z_a.grad is not None
    assert z_a.grad.isnan().all()
