"""Inner products of corresponding rows, a few rows at a time, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslkern.ops._pairs import dot
from sslkern.parallel.pairs import dot_of_pairs


def _rows(rows: int, dims: int) -> tuple[Tensor, Tensor]:
    """Some of norms whose squares leave the range of float64, and one of zero."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, rows, dims, generator=g, dtype=torch.float64)
    if rows > 3:
        x[0], y[1], x[2] = 0.0, y[1] * 1e200, x[2] * 1e-200
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("rows", "dims"), [(5, 3), (700, 129), (3, 40000), (0, 4)])
def test_products_and_gradients(rows: int, dims: int, normalize: bool) -> None:
    x, y = _rows(rows, dims)
    grad = torch.randn(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = dot(x, y, normalize)
    actual = dot_of_pairs("ntxent", "ntxent_loss", x, y, normalize)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(z, (x, y), grad) for z in (actual, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_rounded_once(dtype: torch.dtype) -> None:
    x, y = (z.detach().to(dtype).requires_grad_() for z in _rows(3, 50))
    wide = [z.detach().double().requires_grad_() for z in (x, y)]
    dot_of_pairs("ntxent", "ntxent_loss", x, y, True).sum().backward()
    expected = torch.autograd.grad(dot(*wide, True).sum(), wide)
    assert x.grad is not None
    assert y.grad is not None
    for got, grad in zip((x.grad, y.grad), expected, strict=True):
        assert torch.equal(got, grad.to(dtype))


def test_second_derivatives_are_refused() -> None:
    x, y = _rows(3, 4)
    found = dot_of_pairs("ntxent", "ntxent_loss", x, y, True).sum()
    (grad,) = torch.autograd.grad(found, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="sslkern::ntxent: expected the gradient not to"):
        grad.square().sum().backward()
