"""float32 products on CUDA are those of tf32 where torch's settings allow it, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import cuda_static
import emulation
import pytest
import tf32
import torch

import sslkern
from sslkern.cli import verify
from sslkern.verification.forms import FORMS, Form

# Not on hardware: the library's products of gradients are rounded there, too.
BACKENDS = ("simt", "ptx")

FORMS_OF_PRODUCTS = [
    form
    for form in FORMS
    if form.op in ("ntxent", "info_nce", "clip", "siglip", "supcon", "dcl", "linear_cross_entropy")
]


@contextmanager
def lower_matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


WAYS = {
    "cuda.matmul.fp32_precision": tf32.allowed,
    "fp32_precision": lambda: tf32.setting(torch.backends, "fp32_precision", "tf32"),
    "allow_tf32": lambda: tf32.setting(torch.backends.cuda.matmul, "allow_tf32", True),
    "set_float32_matmul_precision": lower_matmul_precision,
}


def products_of(run: Callable[[], object]) -> set[str]:
    """The products of the kernels that are launched, by the names of their types."""
    names = cuda_static.demangled(emulation.library("ptx").launched_by(run))
    return {name for name in ("Tf32", "Tf32x3") if any(f"<{name}," in n for n in names)}


def example() -> torch.Tensor:
    z = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    return sslkern.ntxent_loss(z[0].requires_grad_(), z[1], 0.5)


@pytest.mark.parametrize("backend", ["ptx"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_every_setting_of_torch_is_followed(way: str, backend: str) -> None:
    assert products_of(example) == {"Tf32x3"}
    with WAYS[way]():
        assert products_of(example) == {"Tf32"}
        assert products_of(lambda: example().backward()) == {"Tf32"}
    assert products_of(example) == {"Tf32x3"}


@pytest.mark.parametrize("form", FORMS_OF_PRODUCTS, ids=lambda form: form.name)
@pytest.mark.parametrize("size", [(62, 33), (130, 127)], ids=str)
def test_exact_products_give_the_results_of_float32(
    form: Form, size: tuple[int, int], backend: str
) -> None:
    found = next(s for s in verify.settings(form, [torch.float32]) if not s.normalize)
    with tf32.verified(), mock.patch.object(verify, "SIZES", (size,)):
        checks = list(verify.checks(found, torch.device("cpu")))
    assert not [str(check) for check in checks if not check.agreement.passed]


@pytest.mark.parametrize("backend", ["ptx"], indirect=True)  # half a minute saved
@pytest.mark.parametrize("form", FORMS_OF_PRODUCTS, ids=lambda form: form.name)
def test_three_products_keep_float32s_digits_along_many_dims(form: Form, backend: str) -> None:
    """At the lowest temperature, on tensor cores that truncate their sums."""
    *_, found = verify.settings(form, [torch.float32])
    with mock.patch.object(verify, "SIZES", ((8, 2048),)):
        checks = list(verify.checks(found, torch.device("cpu")))
    assert not [str(check) for check in checks if not check.agreement.passed]


def test_ranks_of_exact_products_are_exact(backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    query, key = (tf32.representable(torch.randn(140, 24, generator=g)) for _ in range(2))
    options = {"normalize": False, "topk": (1, 10, 70)}
    expected = sslkern.reference.contrastive_accuracy(query.double(), key.double(), **options)
    with tf32.allowed():
        found = sslkern.contrastive_accuracy(query, key, **options)
    assert found.tolist() == pytest.approx(expected.tolist())


def test_other_products_are_rounded_to_eleven_bits(backend: str) -> None:
    z_a, z_b = torch.randn(2, 70, 40, generator=torch.Generator().manual_seed(0))
    expected = sslkern.ntxent_loss(z_a, z_b, 0.1)
    with tf32.allowed():
        found = sslkern.ntxent_loss(z_a, z_b, 0.1)
    difference = float((found - expected).abs())
    assert 0 < difference < 10 * 2**-11  # logits of up to 10, each with an error of 2^-11 at most
