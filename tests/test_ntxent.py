"""NT-Xent against its definition, `sslkern.reference.ntxent_loss` in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from devices import autocast
from gradients import passes_gradcheck
from memory_layouts import in_memory_layouts
from torch import Tensor

import sslkern
from sslkern.accuracy import assert_accurate, cosine
from sslkern.losses import NTXentLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]

# 2B around the tile of 192 rows and the micro-tiles of 6, 12, 16 and 32; D around vectors, the
# strip of 32 and the 256 dimensions of a pass.
SIZES = [
    (1, 1), (1, 130), (2, 3), (3, 31), (5, 32), (8, 33), (16, 127), (47, 128), (95, 7),
    (96, 64), (97, 130), (100, 255), (101, 256), (193, 257), (290, 100), (385, 16),
]  # fmt: skip


class Inputs(NamedTuple):
    """Correlated views and one upstream gradient per row."""

    z_a: Tensor
    z_b: Tensor
    grad: Tensor


def make_inputs(batch: int, dims: int, dtype: torch.dtype, seed: int = 0) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, dims, generator=g, dtype=torch.float64)
    z_b = z + torch.randn(batch, dims, generator=g, dtype=torch.float64)
    grad = torch.rand(2 * batch, generator=g, dtype=torch.float64) + 0.5
    return Inputs(z.to(dtype), z_b.to(dtype), grad)


class Results(NamedTuple):
    loss: Tensor
    grad_z_a: Tensor
    grad_z_b: Tensor
    grad_temperature: Tensor


def evaluate(
    function: Callable[..., Tensor],
    x: Inputs,
    dtype: torch.dtype,
    temperature: float,
    normalize: bool = True,
) -> Results:
    z_a, z_b = (z.to(dtype).clone().requires_grad_() for z in (x.z_a, x.z_b))
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    loss = function(z_a, z_b, tau, normalize=normalize, reduction="none")
    loss.backward(x.grad.to(loss.dtype))
    assert z_a.grad is not None
    assert z_b.grad is not None
    assert tau.grad is not None
    return Results(loss.detach(), z_a.grad, z_b.grad, tau.grad)


def assert_like_reference(x: Inputs, temperature: float, normalize: bool = True) -> None:
    """The accuracy rule for the loss and every gradient.

    Errors are relative to the terms and not to what is left where the positive dominates and they
    cancel: 1 for the loss, |z| / tau per unit of upstream gradient for the gradients. The rule's
    floor is for logits up to 200; beyond, the rounding of a logit grows with it.
    """
    dtype = x.z_a.dtype
    actual = evaluate(sslkern.ntxent_loss, x, dtype, temperature, normalize)
    eager = evaluate(sslkern.reference.ntxent_loss, x, dtype, temperature, normalize)
    exact = evaluate(sslkern.reference.ntxent_loss, x, torch.float64, temperature, normalize)
    largest = max(float(z.double().norm(dim=1).max()) for z in (x.z_a, x.z_b))
    norm = 1.0 if normalize else largest
    beyond = max(1.0, norm**2 / temperature / 200)
    inner = beyond * float(x.grad.max()) * norm / temperature
    if normalize:
        smallest = min(float(z.double().norm(dim=1).min()) for z in (x.z_a, x.z_b))
        inner /= smallest
    terms = {
        "loss": beyond,
        "grad_z_a": inner,
        "grad_z_b": inner,
        "grad_temperature": beyond * float(x.grad.sum()) * norm**2 / temperature**2,
    }
    for name, scale in terms.items():
        reference = getattr(exact, name)
        scale = max(scale, float(reference.abs().max()))
        got, plain = getattr(actual, name), getattr(eager, name)
        if name == "grad_temperature":  # always float64; the work behind it is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        what = f"{name}, {dtype}, {tuple(x.z_a.shape)}, temperature {temperature}"
        assert_accurate(got, plain, reference, what, scale=scale)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "dims"), SIZES)
def test_matches_reference(batch: int, dims: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_inputs(batch, dims, dtype), 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [5.0, 0.5, 0.07, 0.02, 0.01, 0.005, 1e-3])
def test_matches_reference_at_any_temperature(temperature: float, dtype: torch.dtype) -> None:
    assert_like_reference(make_inputs(130, 40, dtype), temperature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0])
def test_matches_reference_without_normalization(scale: float, dtype: torch.dtype) -> None:
    x = make_inputs(110, 20, dtype)
    x = Inputs((x.z_a * scale).to(dtype), (x.z_b * scale).to(dtype), x.grad)
    assert_like_reference(x, 0.3, normalize=False)


def test_reference_passes_gradcheck() -> None:
    x = make_inputs(3, 4, torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (x.z_a.requires_grad_(), x.z_b.requires_grad_(), tau)
    assert torch.autograd.gradcheck(sslkern.reference.ntxent_loss, inputs)


@pytest.mark.parametrize("temperature", [0.3, 0.012])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_passes_gradcheck(normalize: bool, reduction: str, temperature: float) -> None:
    x = make_inputs(4, 5, torch.float64)
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    weight = (x.grad[:4] + 0.5).requires_grad_()

    def loss(a: Tensor, b: Tensor, t: Tensor, w: Tensor) -> Tensor:
        scaled = (a / 10, b / 10) if not normalize else (a, b)
        return sslkern.ntxent_loss(*scaled, t, normalize=normalize, reduction=reduction, weight=w)

    inputs = (x.z_a.requires_grad_(), x.z_b.requires_grad_(), tau, weight)
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("per", [None, "pair", "row"])
def test_reductions_and_weights_match_reference(reduction: str, per: str | None) -> None:
    x = make_inputs(50, 16, torch.float64)
    weight = {None: None, "pair": x.grad[:50], "row": x.grad}[per]
    kwargs = {"reduction": reduction, "weight": weight}
    actual = sslkern.ntxent_loss(x.z_a, x.z_b, 0.2, **kwargs)
    expected = sslkern.reference.ntxent_loss(x.z_a, x.z_b, 0.2, **kwargs)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_only_the_asked_gradient_is_given() -> None:
    x = make_inputs(6, 8, torch.float32)
    z_a = x.z_a.clone().requires_grad_()
    sslkern.ntxent_loss(z_a, x.z_b).backward()
    assert z_a.grad is not None
    assert x.z_b.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    x = make_inputs(6, 8, dtype)
    z_a = x.z_a.clone().requires_grad_()
    tau = torch.tensor(0.5, requires_grad=True)
    loss = sslkern.ntxent_loss(z_a, x.z_b, tau)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert z_a.grad is not None
    assert z_a.grad.dtype == dtype
    assert tau.grad is not None
    assert tau.grad.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradient_scales_with_upstream(scale: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_inputs(20, 8, torch.float32)
    expected = evaluate(sslkern.ntxent_loss, x, torch.float32, 0.1)
    scaled = evaluate(sslkern.ntxent_loss, x._replace(grad=x.grad * scale), torch.float32, 0.1)
    torch.testing.assert_close(scaled.grad_z_a / scale, expected.grad_z_a, rtol=1e-5, atol=1e-6)


@in_memory_layouts
def test_views_give_the_same_numbers(view: Callable[[Tensor], Tensor]) -> None:
    x = make_inputs(37, 19, torch.float32)
    z_a = view(x.z_a)
    assert torch.equal(z_a, x.z_a)
    assert z_a.data_ptr() != x.z_a.data_ptr()
    expected = evaluate(sslkern.ntxent_loss, x, torch.float32, 0.1)
    leaf = z_a.detach().requires_grad_()
    loss = sslkern.ntxent_loss(leaf, view(x.z_b), 0.1, reduction="none")
    loss.backward(x.grad.float())
    assert torch.equal(loss, expected.loss)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected.grad_z_a)


def test_expanded_rows_give_the_same_numbers() -> None:
    row = torch.randn(1, 9)
    expanded = sslkern.ntxent_loss(row.expand(5, 9), row.expand(5, 9))
    assert torch.equal(expanded, sslkern.ntxent_loss(row.repeat(5, 1), row.repeat(5, 1)))


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("batch", [1, 2, 128, 200])
def test_identical_embeddings_give_log_of_the_class_count(
    batch: int, temperature: float, dtype: torch.dtype
) -> None:
    z = torch.ones(batch, 16, dtype=dtype)
    loss = sslkern.ntxent_loss(z, z, temperature)
    eps = torch.finfo(loss.dtype).eps
    assert abs(loss.item() - math.log(2 * batch - 1)) < 16 * eps / temperature


@pytest.mark.not_emulated
def test_more_than_two_to_the_31_similarities() -> None:
    z = torch.ones(24000, 2)
    assert (2 * len(z)) ** 2 > 2**31
    assert sslkern.ntxent_loss(z, z).item() == pytest.approx(math.log(2 * len(z) - 1), rel=1e-5)


@pytest.mark.parametrize(("batch", "temperature"), [(2, 0.5), (4, 0.1), (8, 0.5)])
def test_orthonormal_views_match_closed_form(batch: int, temperature: float) -> None:
    z = torch.eye(batch, dtype=torch.float64)
    expected = math.log1p((2 * batch - 2) * math.exp(-1 / temperature))
    assert sslkern.ntxent_loss(z, z, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_simplex_views_match_closed_form() -> None:
    points = torch.eye(4, dtype=torch.float64) - 0.25
    expected = math.log1p(6 * math.exp(-4 / (3 * 0.5)))
    assert sslkern.ntxent_loss(points, points, 0.5).item() == pytest.approx(expected, rel=1e-12)


def test_one_pair_has_no_negative_and_no_loss() -> None:
    x = make_inputs(1, 5, torch.float64)
    result = evaluate(sslkern.ntxent_loss, x, torch.float64, 0.5)
    assert result.loss.abs().max() < 1e-14
    assert result.grad_z_a.abs().max() < 1e-13


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
def test_zero_rows_give_finite_loss_and_zero_gradient(
    temperature: float, dtype: torch.dtype
) -> None:
    x = make_inputs(10, 6, dtype)
    x.z_a[3] = 0
    assert_like_reference_with_zero_row(x, temperature)


def assert_like_reference_with_zero_row(x: Inputs, temperature: float) -> None:
    dtype = x.z_a.dtype
    actual = evaluate(sslkern.ntxent_loss, x, dtype, temperature)
    exact = evaluate(sslkern.reference.ntxent_loss, x, torch.float64, temperature)
    assert actual.grad_z_a[3].abs().max() == 0
    assert exact.grad_z_a[3].abs().max() == 0
    eps = torch.finfo(torch.float32 if dtype in HALF else dtype).eps
    torch.testing.assert_close(
        actual.loss.double(), exact.loss, rtol=64 * eps, atol=64 * eps / temperature
    )
    assert actual.grad_z_b.isfinite().all()
    assert cosine(actual.grad_z_b, exact.grad_z_b) > 1 - 1e-4


def test_rows_below_eps_count_as_zero() -> None:
    x = make_inputs(4, 6, torch.float64)
    tiny, zero = x.z_a.clone(), x.z_a.clone()
    tiny[1] *= 1e-14
    zero[1] = 0
    assert torch.equal(sslkern.ntxent_loss(tiny, x.z_b), sslkern.ntxent_loss(zero, x.z_b))


@pytest.mark.parametrize("size", [1e30, 1e-10])
def test_extreme_row_norms_do_not_change_the_loss(size: float) -> None:
    """Squares of 1e30 overflow float32; the norm must not."""
    x = make_inputs(30, 64, torch.float32)
    scaled = sslkern.ntxent_loss(x.z_a * size, x.z_b, 0.1)
    torch.testing.assert_close(scaled, sslkern.ntxent_loss(x.z_a, x.z_b, 0.1))


@pytest.mark.parametrize("backend", ["simt"], indirect=True)
def test_rows_whose_tiles_have_more_bytes_than_32_bits_are_refused(backend: str) -> None:
    z = torch.zeros(1, 1, dtype=torch.float64).expand(1, 2**21)
    with pytest.raises(ValueError, match=r"at most 2097136 columns .* got 2097152"):
        sslkern.ntxent_loss(z, z)


def test_norms_beyond_the_square_root_of_the_largest_double() -> None:
    x = make_inputs(5, 64, torch.float64)
    scaled = sslkern.ntxent_loss(x.z_a * 2.0**900, x.z_b, 0.1)
    assert torch.equal(scaled, sslkern.ntxent_loss(x.z_a, x.z_b, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_dominant_pair_stays_finite(dtype: torch.dtype) -> None:
    z = torch.full((8, 4), 0.5, dtype=dtype)
    z[0] = 30.0
    x = Inputs(z, z.clone(), torch.ones(16, dtype=torch.float64))
    assert_like_reference(x, 0.5, normalize=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.005])
def test_one_nan_row_makes_every_row_nan(
    temperature: float, normalize: bool, dtype: torch.dtype
) -> None:
    x = make_inputs(120, 6, dtype)
    x.z_b[77, 3] = math.nan
    result = evaluate(sslkern.ntxent_loss, x, dtype, temperature, normalize)
    assert result.loss.isnan().all()
    assert result.grad_z_a.isnan().all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_input_gives_non_finite_loss(value: float, normalize: bool) -> None:
    x = make_inputs(120, 6, torch.float32)
    x.z_a[5, 0] = value
    assert not sslkern.ntxent_loss(x.z_a, x.z_b, normalize=normalize).isfinite()


# ---- properties


def test_swapping_the_views_swaps_the_rows() -> None:
    x = make_inputs(60, 12, torch.float64)
    loss = sslkern.ntxent_loss(x.z_a, x.z_b, reduction="none")
    swapped = sslkern.ntxent_loss(x.z_b, x.z_a, reduction="none")
    torch.testing.assert_close(swapped, loss.roll(60), rtol=1e-12, atol=1e-12)


def test_permuting_the_pairs_permutes_the_rows() -> None:
    x = make_inputs(60, 12, torch.float64)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    loss = sslkern.ntxent_loss(x.z_a, x.z_b, reduction="none")[:60]
    permuted = sslkern.ntxent_loss(x.z_a[order], x.z_b[order], reduction="none")[:60]
    torch.testing.assert_close(permuted, loss[order], rtol=1e-12, atol=1e-12)


def test_gradient_is_orthogonal_to_the_row() -> None:
    """The loss does not depend on the length of a row."""
    x = make_inputs(40, 10, torch.float64)
    result = evaluate(sslkern.ntxent_loss, x, torch.float64, 0.1)
    assert (result.grad_z_a * x.z_a).sum(1).abs().max() < 1e-13


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_bitwise_the_same_for_any_thread_count(temperature: float) -> None:
    x = make_inputs(500, 70, torch.float32)
    torch.set_num_threads(1)
    expected = evaluate(sslkern.ntxent_loss, x, torch.float32, temperature)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(3):
            again = evaluate(sslkern.ntxent_loss, x, torch.float32, temperature)
            assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_inputs_are_left_alone() -> None:
    x = make_inputs(20, 7, torch.float32)
    before = x.z_a.clone()
    evaluate(sslkern.ntxent_loss, x, torch.float32, 0.1)
    assert torch.equal(x.z_a, before)


def test_changing_an_input_before_backward_is_an_error() -> None:
    x = make_inputs(4, 5, torch.float32)
    z_a = (x.z_a.requires_grad_() * 1).requires_grad_()
    loss = sslkern.ntxent_loss(z_a, x.z_b)
    with torch.no_grad():
        z_a.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- errors

Z = torch.randn(4, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: (Z[0], Z), ValueError, r"z_a to be of shape \(B, D\), got shape \(5,\)"),
        (lambda: (Z, Z[0]), ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got shape \(5"),
        (lambda: (Z, Z[:3]), ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got shape \(3"),
        (lambda: (Z[:0], Z[:0]), ValueError, r"no empty dimension, got shape \(0, 5\)"),
        (lambda: (Z[:, :0], Z[:, :0]), ValueError, r"no empty dimension, got shape \(4, 0\)"),
        (lambda: (Z, Z.double()), TypeError, r"z_a, torch.float32, got torch.float64"),
        (lambda: (Z.long(), Z), TypeError, r"z_a to be of dtype .* got torch.int64"),
        (lambda: (Z, Z.long()), TypeError, r"z_b to be of dtype .* got torch.int64"),
        (lambda: (Z + 0j, Z), TypeError, r"z_a to be of dtype .* got torch.complex64"),
        (lambda: (Z.to_sparse(), Z), TypeError, r"z_a to be a dense tensor, got layout Sparse"),
        (lambda: (Z, Z.to_sparse()), TypeError, r"z_b to be a dense tensor, got layout Sparse"),
        (lambda: (Z.to("meta"), Z), ValueError, r"z_b to be on the device of z_a, meta, got cpu"),
        (lambda: (Z, Z, 0.0), ValueError, r"temperature to be positive and finite, got 0"),
        (lambda: (Z, Z, -1), ValueError, r"temperature to be positive and finite, got -1"),
        (lambda: (Z, Z, math.nan), ValueError, r"temperature to be positive and finite, got nan"),
        (lambda: (Z, Z, math.inf), ValueError, r"temperature to be positive and finite, got inf"),
        (lambda: (Z, Z, torch.ones(2)), ValueError, r"temperature to be a number .* shape \(2,\)"),
        (lambda: (Z, Z, torch.ones((), dtype=torch.int64)), TypeError, r"temperature to be of dt"),
        (lambda: (Z, Z, "0.5"), TypeError, r"temperature to be a number .* got str"),
        (lambda: (Z, Z, True), TypeError, r"temperature to be a number .* got bool"),
        (lambda: ([1.0], Z), TypeError, r"z_a to be a tensor, got list"),
        (lambda: (Z, None), TypeError, r"z_b to be a tensor, got NoneType"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(
    call: Callable[[], tuple[object, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::ntxent: expected (.* )?" + message):
        sslkern.ntxent_loss(*call())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"reduction": "avg"}, ValueError, "reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.ones(4, 1)}, ValueError, r"weight to be of shape .* got shape \(4, 1\)"),
        ({"weight": torch.ones(4).long()}, TypeError, "weight to be a floating-point tensor"),
        ({"weight": [1.0] * 4}, TypeError, "weight to be a tensor, got list"),
    ],
)
def test_bad_option_is_refused(
    kwargs: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sslkern.ntxent_loss(Z, Z, **kwargs)  # type: ignore[arg-type]


def test_second_derivative_is_refused() -> None:
    z_a = torch.randn(4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(sslkern.ntxent_loss(z_a, Z), z_a, create_graph=True)
    with pytest.raises(NotImplementedError, match="sslkern::ntxent: expected the gradient not to"):
        grad.square().sum().backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_module_refuses_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature to be positive and finite"):
        NTXentLoss(temperature)


# ---- torch integration


def test_module_equals_function() -> None:
    x = make_inputs(7, 8, torch.float32)
    assert torch.equal(NTXentLoss(0.2)(x.z_a, x.z_b), sslkern.ntxent_loss(x.z_a, x.z_b, 0.2))
    assert NTXentLoss().temperature == 0.5
    assert repr(NTXentLoss(0.2)) == "NTXentLoss(temperature=0.2)"


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
def test_opcheck(normalize: bool, dtype: torch.dtype) -> None:
    x = make_inputs(6, 5, dtype)
    tau = torch.tensor(0.5, requires_grad=True)
    inputs = (x.z_a.requires_grad_(), x.z_b.requires_grad_(), tau, normalize)
    torch.library.opcheck(torch.ops.sslkern.ntxent_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic: bool) -> None:
    compiled = torch.compile(
        sslkern.ntxent_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for batch in (6, 9):
        x = make_inputs(batch, 5, torch.float32)
        expected = evaluate(sslkern.ntxent_loss, x, torch.float32, 0.1)
        actual = evaluate(compiled, x, torch.float32, 0.1)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    x = make_inputs(6, 5, torch.float32)

    def training_loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.ntxent_loss(a.relu(), b * 2, 0.2) + 1

    z_a = x.z_a.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(z_a, x.z_b).backward()
    expected = x.z_a.clone().requires_grad_()
    training_loss(expected, x.z_b).backward()
    torch.testing.assert_close(z_a.grad, expected.grad)


def test_autocast_promotes_mixed_dtypes() -> None:
    x = make_inputs(6, 5, torch.float32)
    half = x.z_b.bfloat16()
    with autocast():
        mixed = sslkern.ntxent_loss(x.z_a, half)
    assert torch.equal(mixed, sslkern.ntxent_loss(x.z_a, half.float()))


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.ntxent_loss(z[:3], z[3:])
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.ntxent_loss(Z, Z).isfinite()
