"""MMCR against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import autocast
from torch import Tensor
from torch.nn import functional as F

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import MMCRLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N samples, V views, D.
SIZES = [(2, 2, 1), (3, 2, 5), (16, 3, 16), (31, 4, 33), (100, 2, 24), (24, 5, 65)]

Options = dict[str, Any]


def make_inputs(n: int, v: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Views (N, V, D) around each sample, none of unit norm."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(n, 1, d, generator=g, dtype=torch.float64)
    noise = torch.randn(n, v, d, generator=g, dtype=torch.float64)
    return (shared + noise).to(dtype)


def evaluate(
    function: Callable[..., Tensor], views: Tensor, dtype: torch.dtype, **options: Any
) -> dict[str, Tensor]:
    """The loss and its gradient."""
    z = views.to(dtype).clone().requires_grad_()
    loss = function(z, **options)
    (grad_views,) = torch.autograd.grad(loss, z)
    return {"loss": loss.detach(), "grad_views": grad_views}


def assert_like_reference(views: Tensor, **options: Any) -> None:
    """The accuracy rule; a row's gradient is a difference of unit rows, over its length."""
    dtype = views.dtype
    actual = evaluate(sslkern.mmcr_loss, views, dtype, **options)
    eager = evaluate(reference.mmcr_loss, views, dtype, **options)
    exact = evaluate(reference.mmcr_loss, views, torch.float64, **options)
    shortest = float(views.double().norm(dim=2).min()) if options.get("normalize", True) else 1.0
    for name, expected in exact.items():
        term = 1.0 if name == "loss" else 1 / views.shape[1] / shortest
        what = f"{name}, {dtype}, {tuple(views.shape)}, {options}"
        scale = max(term, float(expected.abs().max()))
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


# ---- the reference itself


def test_reference_is_the_sum_of_singular_values() -> None:
    """By the eigenvalues of the products of rows."""
    views = F.normalize(make_inputs(5, 3, 7), dim=2)

    def nuclear(z: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(z @ z.T).clamp_min(0).sqrt().sum()

    expected = 0.3 * sum(nuclear(z) for z in views) / 5 - nuclear(views.mean(1))
    torch.testing.assert_close(reference.mmcr_loss(views, lmda=0.3), expected)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("lmda", [0.0, 0.5])
@pytest.mark.parametrize("function", [reference.mmcr_loss, sslkern.mmcr_loss])
@pytest.mark.parametrize("shape", [(4, 2, 3), (3, 3, 5)])
def test_passes_gradcheck_of_first_and_second_order(
    shape: tuple[int, int, int], function: Callable[..., Tensor], lmda: float, normalize: bool
) -> None:
    def loss(z: Tensor) -> Tensor:
        return function(z, lmda=lmda, normalize=normalize)

    z = make_inputs(*shape).requires_grad_()
    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "v", "d"), SIZES)
def test_matches_reference(n: int, v: int, d: int, dtype: torch.dtype) -> None:
    views = make_inputs(n, v, d, dtype)
    for normalize in (True, False):
        assert_like_reference(views, normalize=normalize)
        assert_like_reference(views, lmda=0.5, normalize=normalize)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.mmcr_loss, make_inputs(6, 2, 3, dtype), dtype, lmda=0.1)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["grad_views"].dtype == dtype


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequence_of_matrices_is_the_same_and_has_gradients(kind: type) -> None:
    views = make_inputs(9, 3, 4)
    expected = evaluate(sslkern.mmcr_loss, views, torch.float64, lmda=0.5)
    leaves = [z.clone().requires_grad_() for z in views.unbind(1)]
    for function in (sslkern.mmcr_loss, reference.mmcr_loss):
        loss = function(kind(leaves), lmda=0.5)
        torch.testing.assert_close(loss, expected["loss"], rtol=1e-12, atol=0)
        grads = torch.stack(torch.autograd.grad(loss, leaves), dim=1)
        torch.testing.assert_close(grads, expected["grad_views"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.transpose(0, 2).contiguous().transpose(0, 2),
        lambda z: torch.cat([z, z], dim=2)[:, :, : z.shape[2]],
        lambda z: torch.stack([z, z], dim=3)[..., 0],
    ],
    ids=["transposed", "row-stride", "column-stride"],
)
def test_views_give_the_same_numbers(view: Callable[[Tensor], Tensor]) -> None:
    z = make_inputs(12, 3, 5)
    expected = sslkern.mmcr_loss(z, lmda=0.5)
    torch.testing.assert_close(sslkern.mmcr_loss(view(z), lmda=0.5), expected, rtol=1e-12, atol=0)


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthonormal_and_identical_rows_match_closed_forms(dtype: torch.dtype) -> None:
    rows, same = torch.eye(8, dtype=dtype), torch.ones(16, 4, dtype=dtype)
    assert sslkern.mmcr_loss([rows, rows]).item() == pytest.approx(-8, rel=1e-6)
    assert sslkern.mmcr_loss([3 * rows] * 3).item() == pytest.approx(-8, rel=1e-6)
    assert sslkern.mmcr_loss([same, same]).item() == pytest.approx(-4, rel=1e-6)


def test_tight_frame_reaches_the_bound_and_nothing_passes_it() -> None:
    """16 unit rows in 8 dimensions whose columns are orthogonal: the square root of 16 * 8."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(8, 8, generator=g).double())[0]
    frame = torch.cat([torch.eye(8).double(), q])
    bound = -math.sqrt(16 * 8)
    assert sslkern.mmcr_loss([frame, frame]).item() == pytest.approx(bound, rel=1e-12)
    assert sslkern.mmcr_loss(make_inputs(16, 2, 8)) > bound


def test_views_of_one_sample_match_closed_forms() -> None:
    """Singular values of two orthonormal rows are 1 and 1; of two equal ones, root 2 and 0."""
    rows = torch.eye(4).double()
    for other, spread, own in ((rows.roll(1, 0), None, 2.0), (rows, -4.0, math.sqrt(2))):
        without = sslkern.mmcr_loss([rows, other])
        if spread is not None:
            assert without.item() == pytest.approx(spread, rel=1e-12)
        loss = sslkern.mmcr_loss([rows, other], lmda=0.25)
        assert (loss - without).item() == pytest.approx(0.25 * own, rel=1e-12)


def test_opposite_views_have_no_centroid() -> None:
    z = make_inputs(6, 2, 4)[:, 0]
    assert abs(sslkern.mmcr_loss([z, -z]).item()) < 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_count_as_zero(dtype: torch.dtype) -> None:
    views = make_inputs(6, 2, 4, dtype)
    views[2] = 0
    actual = evaluate(sslkern.mmcr_loss, views, dtype, lmda=0.5)
    exact = evaluate(reference.mmcr_loss, views, torch.float64, lmda=0.5)
    torch.testing.assert_close(actual["loss"].double(), exact["loss"], rtol=1e-5, atol=0)
    assert actual["grad_views"].isfinite().all()
    assert actual["grad_views"][2].abs().max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_show(value: float, normalize: bool, dtype: torch.dtype) -> None:
    """Also in the gradient, where a scaler of half training looks for them."""
    views = make_inputs(6, 2, 4, dtype)
    views[2, 1, 3] = value
    result = evaluate(sslkern.mmcr_loss, views, dtype, lmda=0.5, normalize=normalize)
    assert result["loss"].isnan()
    assert result["grad_views"].isnan().all()


# ---- properties


@pytest.mark.parametrize("normalize", [True, False])
def test_order_of_samples_and_views_and_rotations_change_nothing(normalize: bool) -> None:
    z = make_inputs(12, 3, 5)
    options: Options = {"lmda": 0.5, "normalize": normalize}
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double())[0]
    expected = sslkern.mmcr_loss(z, **options)
    for other in (z.flip(0), z.flip(1), z @ q):
        actual = sslkern.mmcr_loss(other, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_only_the_normalized_loss_does_not_grow_with_the_rows() -> None:
    z = make_inputs(12, 3, 5)
    for lmda in (0.0, 0.5):
        expected = sslkern.mmcr_loss(z, lmda=lmda)
        torch.testing.assert_close(sslkern.mmcr_loss(2 * z, lmda=lmda), expected)
        grown = sslkern.mmcr_loss(2 * z, lmda=lmda, normalize=False)
        expected = 2 * sslkern.mmcr_loss(z, lmda=lmda, normalize=False)
        torch.testing.assert_close(grown, expected, rtol=1e-12, atol=0)


def test_gradient_is_orthogonal_to_the_rows() -> None:
    z = make_inputs(12, 3, 5)
    grad = evaluate(sslkern.mmcr_loss, z, torch.float64, lmda=0.5)["grad_views"]
    assert grad.abs().max() > 1e-3
    assert (grad * z).sum(2).abs().max() < 1e-14


# ---- peers


@pytest.mark.parametrize("lmda", [0.005, 0.0, 2.0])
@pytest.mark.parametrize(("n", "v", "d"), [(12, 4, 7), (7, 2, 12)])
def test_equals_lightly_without_normalization(n: int, v: int, d: int, lmda: float) -> None:
    """It takes the views of two encoders; its default of lmda is 0.005."""
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.mmcr_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    ours, theirs = MMCRLoss(lmda, normalize=False), module.MMCRLoss(lmda)
    results = []
    for function in (ours, lambda z: theirs(*z.chunk(2, dim=1))):
        views = make_inputs(n, v, d).requires_grad_()
        loss = function(views)
        results.append((loss.detach(), *torch.autograd.grad(loss, views)))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


# ---- determinism


def test_twice_the_same_and_inputs_are_left_alone() -> None:
    views = make_inputs(24, 2, 9, torch.float32)
    before = views.clone()
    first, again = (evaluate(sslkern.mmcr_loss, views, torch.float32, lmda=0.5) for _ in "12")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(views, before)


# ---- errors

Z = make_inputs(6, 2, 4, torch.float32)
A, B = Z.unbind(1)


@pytest.mark.parametrize(
    ("views", "error", "message"),
    [
        (A, ValueError, r"views to be of shape \(N, V, D\) with N >= 2 .* got shape \(6, 4\)"),
        (Z[:1], ValueError, r"views to be of shape .* N >= 2 .* got shape \(1, 2, 4\)"),
        (Z[:, :, :0], ValueError, r"views to be of shape .* no empty .* got shape \(6, 2, 0\)"),
        (Z[:, :1], ValueError, r"views to be at least two, got 1"),
        ([A], ValueError, r"views to be at least two, got 1"),
        ([], ValueError, r"views to be at least two, got 0"),
        ([A[0], B[0]], ValueError, r"views\[0\] to be of shape \(N, D\) .* got shape \(4,\)"),
        ([A[:1], B[:1]], ValueError, r"views\[0\] to be .* N >= 2 .* got shape \(1, 4\)"),
        ([A, B[:3]], ValueError, r"views\[1\] to be of the shape of views\[0\], .*\(3, 4\)"),
        ([A, B[:, :3]], ValueError, r"views\[1\] to be of the shape of views\[0\], .*\(6, 3\)"),
        ([A, B.double()], TypeError, r"views\[1\] to be of the dtype of views\[0\], .*float64"),
        ([A, 3], TypeError, r"views\[1\] to be a tensor, got int"),
        (Z.long(), TypeError, r"views to be of dtype .* got torch.int64"),
        ([A, B + 0j], TypeError, r"views\[1\] to be of dtype .* got torch.complex64"),
        (Z.to_sparse(), TypeError, r"views to be a dense tensor, got layout"),
        (None, TypeError, r"views to be a tensor or a sequence of tensors, got NoneType"),
        ("ab", TypeError, r"views to be a tensor or a sequence of tensors, got str"),
    ],
)
def test_bad_views_are_refused(views: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::mmcr: expected " + message):
        sslkern.mmcr_loss(views)


@pytest.mark.parametrize(
    ("lmda", "error", "message"),
    [
        (-0.1, ValueError, "lmda to be finite and not negative, got -0.1"),
        (math.nan, ValueError, "lmda to be finite and not negative, got nan"),
        (math.inf, ValueError, "lmda to be finite and not negative, got inf"),
        ("1", TypeError, "lmda to be a number, got str"),
    ],
)
def test_bad_weight_is_refused(lmda: Any, error: type[Exception], message: str) -> None:
    for call in (lambda: sslkern.mmcr_loss(Z, lmda=lmda), lambda: MMCRLoss(lmda)):
        with pytest.raises(error, match=r"^sslkern::mmcr: expected " + message):
            call()


# ---- torch integration


def test_module_equals_function() -> None:
    loss_fn = MMCRLoss(0.2, normalize=False)
    assert torch.equal(loss_fn(Z), sslkern.mmcr_loss([A, B], lmda=0.2, normalize=False))
    assert repr(loss_fn) == "MMCRLoss(lmda=0.2, normalize=False)"
    assert torch.equal(MMCRLoss()([A, B]), sslkern.mmcr_loss(Z))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.mmcr_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        views = make_inputs(n, 2, 4, torch.float32)
        expected = evaluate(sslkern.mmcr_loss, views, torch.float32, lmda=0.5)
        actual = evaluate(compiled, views, torch.float32, lmda=0.5)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)


def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        return sslkern.mmcr_loss([z_a.sin(), z_b * 2], lmda=0.5) + 1

    grads = []
    for function in (torch.compile(training_loss, fullgraph=True), training_loss):
        z = A.clone().requires_grad_()
        function(z, B).backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_autocast_changes_nothing_and_promotes() -> None:
    expected = sslkern.mmcr_loss(Z, lmda=0.5)
    with autocast():
        assert torch.equal(sslkern.mmcr_loss(Z, lmda=0.5), expected)
        mixed = sslkern.mmcr_loss([A.bfloat16(), B.bfloat16().float()])
    assert torch.equal(mixed, sslkern.mmcr_loss(Z.bfloat16()))


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(0)))
        loss = sslkern.mmcr_loss(z)
    loss.backward()
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_without_grad_and_inside_inference_mode() -> None:
    expected = sslkern.mmcr_loss(Z)
    with torch.no_grad():
        assert not sslkern.mmcr_loss(Z.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(sslkern.mmcr_loss(Z), expected)
