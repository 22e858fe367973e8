"""The metrics of a representation against closed forms and the words of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import sslkern
from sslkern.accuracy import FLOOR, max_error

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(n, n, seed=seed)).Q


# ---- alignment


def test_alignment_is_the_mean_power_of_the_distances() -> None:
    """The paper's ``(x - y).norm(p=2, dim=1).pow(alpha).mean()``, in numpy."""
    x, y = normal(20, 7, seed=1), 5 * normal(20, 7, seed=2)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x.numpy(), y.numpy())]
    distances = np.linalg.norm(unit[0] - unit[1], axis=1)
    for alpha in (0.5, 1, 2, 3, 4):
        expected = (distances**alpha).mean()
        assert sslkern.alignment(x, y, alpha).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
def test_alignment_of_known_angles(alpha: float) -> None:
    x = normal(6, 4)
    right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert sslkern.alignment(x, 2 * x, alpha).item() == pytest.approx(0, abs=1e-7)
    assert sslkern.alignment(x, -x, alpha).item() == pytest.approx(2**alpha)
    assert sslkern.alignment(*right, alpha).item() == pytest.approx(2 ** (alpha / 2))


def test_alignment_by_default_is_two_less_twice_the_cosine() -> None:
    x, y = normal(30, 9, seed=1), normal(30, 9, seed=2)
    cosine = torch.nn.functional.cosine_similarity(x, y).mean().item()
    assert sslkern.alignment(x, y).item() == pytest.approx(2 - 2 * cosine, rel=1e-12)


def test_alignment_ignores_scale_and_order_of_the_views() -> None:
    x, y = normal(8, 5, seed=1), normal(8, 5, seed=2)
    expected = sslkern.alignment(x, y)
    torch.testing.assert_close(sslkern.alignment(y * 1e3, x * 1e-3), expected)


def test_alignment_takes_zero_rows_as_zero() -> None:
    x, y = torch.zeros(2, 3), normal(2, 3, dtype=torch.float32)
    x.requires_grad_()
    loss = sslkern.alignment(x, y)
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert torch.equal(x.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("alpha", [0.5, 1, 1.5, 2, 3])
def test_alignment_passes_gradcheck(alpha: float) -> None:
    x, y = normal(4, 3, seed=1).requires_grad_(), normal(4, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: sslkern.alignment(x, y, alpha), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: sslkern.alignment(x, y, alpha), (x, y))


@pytest.mark.parametrize("alpha", [0.5, 1, 1.5, 2, 3])
def test_rows_that_agree_have_no_gradient(alpha: float) -> None:
    x = torch.eye(3).requires_grad_()
    sslkern.alignment(x, torch.eye(3), alpha).backward()
    assert torch.equal(x.grad, torch.zeros(3, 3))


# ---- rankme


def entropy_rank(sigma: np.ndarray) -> float:
    """The paper's formula on given singular values."""
    p = sigma / sigma.sum() + 1e-7
    return math.exp(-sum(x * math.log(x) for x in p))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 6), (40, 8), (8, 40)])
def test_rankme_of_a_known_spectrum(n: int, k: int) -> None:
    sigma = np.linspace(0.1, 3, min(n, k))
    diagonal = torch.zeros(n, k, dtype=torch.float64)
    diagonal[range(len(sigma)), range(len(sigma))] = torch.from_numpy(sigma)
    z = orthogonal(n, seed=1) @ diagonal @ orthogonal(k, seed=2)
    assert sslkern.rankme(z).item() == pytest.approx(entropy_rank(sigma), rel=1e-10)


@pytest.mark.parametrize("k", [1, 2, 16, 100])
def test_rankme_of_no_preferred_direction_is_the_dimension(k: int) -> None:
    z = 3 * torch.cat([orthogonal(k), orthogonal(k, seed=1)])
    assert sslkern.rankme(z).item() == pytest.approx(k, rel=1e-4)


@pytest.mark.parametrize("z", [torch.ones(9, 5), torch.arange(1.0, 9)[:, None] * torch.ones(5)])
def test_rankme_of_a_line_is_one(z: Tensor) -> None:
    """Rows that are all the same count as one direction: they are not centred first."""
    assert sslkern.rankme(z).item() == pytest.approx(1, abs=1e-4)


def test_rankme_of_zeros_is_one() -> None:
    assert sslkern.rankme(torch.zeros(9, 5)).item() == pytest.approx(1, abs=1e-4)


def test_rankme_ignores_scale_and_rotation() -> None:
    z = normal(50, 6) * torch.arange(1, 7)
    expected = sslkern.rankme(z)
    torch.testing.assert_close(sslkern.rankme(1e6 * z), expected)
    torch.testing.assert_close(sslkern.rankme(z @ orthogonal(6)), expected)


def test_rankme_does_not_scale_the_rows() -> None:
    z = torch.diag(torch.tensor([100.0, 1.0, 1.0]))
    assert sslkern.rankme(z).item() == pytest.approx(
        entropy_rank(np.array([100.0, 1.0, 1.0])), rel=1e-5
    )


def test_rankme_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(sslkern.rankme, normal(6, 4).requires_grad_())


# ---- both

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "alignment": lambda z: sslkern.alignment(z, z.flip(0)),
    "rankme": sslkern.rankme,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_arithmetic_is_at_least_in_float32(name: str, dtype: torch.dtype) -> None:
    z = normal(60, 12, dtype=dtype)
    value, exact = CALLS[name](z), CALLS[name](z.double())
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert max_error(value, exact) < FLOOR[value.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_gradient_has_the_dtype_of_the_embeddings(name: str, dtype: torch.dtype) -> None:
    z = normal(60, 12, dtype=dtype).requires_grad_()
    CALLS[name](z).backward()
    exact = z.detach().double().requires_grad_()
    CALLS[name](exact).backward()
    assert z.grad.dtype == dtype
    assert max_error(z.grad, exact.grad) < FLOOR[dtype]


@pytest.mark.parametrize("name", CALLS)
def test_compiles_without_graph_break(name: str) -> None:
    compiled = torch.compile(CALLS[name], backend="aot_eager", fullgraph=True)
    z = normal(10, 4)
    torch.testing.assert_close(compiled(z), CALLS[name](z))


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        ([[1.0]], TypeError, "a tensor, got list"),
        (torch.ones(3), ValueError, r"a matrix with no empty dimension, got shape \(3,\)"),
        (torch.ones(0, 3), ValueError, r"a matrix with no empty dimension, got shape \(0, 3\)"),
        (torch.ones(3, 0), ValueError, r"a matrix with no empty dimension, got shape \(3, 0\)"),
        (torch.ones(2, 2).long(), TypeError, "of dtype torch.float64, .* got torch.int64"),
        (torch.ones(2, 2) + 0j, TypeError, "of dtype torch.float64, .* got torch.complex64"),
    ],
)
def test_bad_embeddings_are_refused(z: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sslkern::rankme: expected z to be {message}"):
        sslkern.rankme(z)
    with pytest.raises(error, match=f"^sslkern::alignment: expected x to be {message}"):
        sslkern.alignment(z, torch.ones(2, 2))
    with pytest.raises(error, match=f"^sslkern::alignment: expected y to be {message}"):
        sslkern.alignment(torch.ones(2, 2), z)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.ones(2, 3), ValueError, r"of the shape of x, \(2, 2\), got shape \(2, 3\)"),
        (torch.ones(1, 2), ValueError, r"of the shape of x, \(2, 2\), got shape \(1, 2\)"),
        (torch.ones(2, 2).double(), TypeError, "of the dtype of x, torch.float32, got torch.float"),
        (torch.ones(2, 2, device="meta"), ValueError, "on the device of x, cpu, got meta"),
    ],
)
def test_views_that_differ_are_refused(y: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sslkern::alignment: expected y to be {message}"):
        sslkern.alignment(torch.ones(2, 2), y)


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, math.inf])
def test_power_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha to be positive and finite"):
        sslkern.alignment(torch.ones(2, 2), torch.ones(2, 2), alpha)


@pytest.mark.parametrize("alpha", ["2", True, None])
def test_power_must_be_a_number(alpha: float) -> None:
    with pytest.raises(TypeError, match=r"alpha to be a number, got (str|bool|NoneType)"):
        sslkern.alignment(torch.ones(2, 2), torch.ones(2, 2), alpha)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rank_of_what_is_not_finite_is_refused(value: float) -> None:
    z = torch.eye(3)
    z[1, 2] = value
    with pytest.raises(ValueError, match=f"^sslkern::rankme: expected z to be finite, got {value}"):
        sslkern.rankme(z)


def test_alignment_of_nan_is_nan() -> None:
    x = torch.eye(3)
    x[1, 2] = math.nan
    for alpha in (1, 2):
        assert sslkern.alignment(x, torch.eye(3), alpha).isnan()
