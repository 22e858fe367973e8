"""FroSSL against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import autocast
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import FroSSLLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N samples, V views, D.
SIZES = [(2, 2, 1), (3, 2, 5), (16, 3, 16), (31, 4, 33), (100, 2, 24), (24, 5, 65), (65, 2, 64)]

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
    """The accuracy rule; an entropy is up to log D, and a column's gradient over its length."""
    dtype = views.dtype
    n, count, dim = views.shape
    actual = evaluate(sslkern.frossl_loss, views, dtype, **options)
    eager = evaluate(reference.frossl_loss, views, dtype, **options)
    exact = evaluate(reference.frossl_loss, views, torch.float64, **options)
    shortest = float(views.double().norm(dim=0).min())
    for name, expected in exact.items():
        term = count * max(1.0, math.log(dim)) if name == "loss" else 1 / math.sqrt(n) / shortest
        what = f"{name}, {dtype}, {tuple(views.shape)}, {options}"
        scale = max(term, float(expected.abs().max()))
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


# ---- the reference itself


def test_reference_is_the_formula() -> None:
    """From the eigenvalues of the covariances, and with lightly's mean over all elements."""
    views = make_inputs(6, 3, 4)
    unit = F.normalize(views, dim=0)
    expected = torch.zeros(())
    for z in unit.unbind(1):
        share = torch.linalg.eigvalsh(z.T @ z) / 4
        expected = expected + 2 * share.norm().log()
        expected = expected + 0.3 * 3 * 4 * F.mse_loss(z, unit.mean(1))
    torch.testing.assert_close(reference.frossl_loss(views, invariance_weight=0.3), expected)


@pytest.mark.parametrize("function", [reference.frossl_loss, sslkern.frossl_loss])
@pytest.mark.parametrize("shape", [(4, 2, 3), (3, 3, 5)])
def test_passes_gradcheck_of_first_and_second_order(
    shape: tuple[int, int, int], function: Callable[..., Tensor]
) -> None:
    def loss(z: Tensor) -> Tensor:
        return function(z, invariance_weight=0.5)

    z = make_inputs(*shape).requires_grad_()
    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "v", "d"), SIZES)
def test_matches_reference(n: int, v: int, d: int, dtype: torch.dtype) -> None:
    views = make_inputs(n, v, d, dtype)
    assert_like_reference(views)
    assert_like_reference(views, invariance_weight=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.frossl_loss, make_inputs(6, 2, 3, dtype), dtype)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["grad_views"].dtype == dtype


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequence_of_matrices_is_the_same_and_has_gradients(kind: type) -> None:
    views = make_inputs(9, 3, 4)
    expected = evaluate(sslkern.frossl_loss, views, torch.float64, invariance_weight=0.5)
    leaves = [z.clone().requires_grad_() for z in views.unbind(1)]
    for function in (sslkern.frossl_loss, reference.frossl_loss):
        loss = function(kind(leaves), invariance_weight=0.5)
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
    expected = sslkern.frossl_loss(z, invariance_weight=0.5)
    torch.testing.assert_close(
        sslkern.frossl_loss(view(z), invariance_weight=0.5), expected, rtol=1e-12, atol=0
    )


class LargestOutput(TorchDispatchMode):
    """Elements of the largest output of any operator."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple) else (result,)
        sizes = [z.numel() for z in outputs if isinstance(z, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.parametrize(("n", "d"), [(200, 5), (5, 200)])
def test_only_the_smaller_matrix_of_products_is_made(n: int, d: int) -> None:
    views = make_inputs(n, 2, d, torch.float32).requires_grad_()
    with LargestOutput() as largest:
        sslkern.frossl_loss(views).backward()
    assert largest.elements <= views.numel()


# ---- designed inputs

H = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]]).double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_closed_forms(dtype: torch.dtype) -> None:
    """Orthogonal columns have an entropy of log D each, identical rows none."""
    one_hot = torch.eye(4, dtype=dtype).repeat(4, 1)
    for rows, dim in ((one_hot, 4), (3 * H.to(dtype), 3), (torch.eye(6, dtype=dtype), 6)):
        loss = sslkern.frossl_loss([rows, rows])
        assert loss.item() == pytest.approx(-2 * math.log(dim), rel=1e-6)
    same = torch.tensor([[0.5, -0.5, 0.5, 0.5]], dtype=dtype).repeat(9, 1)
    assert abs(sslkern.frossl_loss([same, same]).item()) < 1e-6


def test_opposite_views_are_as_far_apart_as_can_be() -> None:
    """Around a mean of zero, each at a distance of D in all."""
    loss = sslkern.frossl_loss([H, -H], invariance_weight=0.5)
    assert loss.item() == pytest.approx(-2 * math.log(3) + 0.5 * 2 / 4 * (3 + 3), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_columns_count_as_zero(dtype: torch.dtype) -> None:
    """As if they were not there: the trace is that of the others."""
    views = make_inputs(6, 2, 4, dtype)
    views[:, :, 2] = 0
    actual = evaluate(sslkern.frossl_loss, views, dtype)
    exact = evaluate(reference.frossl_loss, views, torch.float64)
    torch.testing.assert_close(actual["loss"].double(), exact["loss"], rtol=1e-5, atol=1e-6)
    others = sslkern.frossl_loss(views[:, :, [0, 1, 3]])
    torch.testing.assert_close(actual["loss"], others, rtol=1e-6, atol=1e-6)
    assert actual["grad_views"].isfinite().all()
    assert actual["grad_views"][:, :, 2].abs().max() == 0


def test_a_view_of_zeros_is_nan() -> None:
    views = make_inputs(6, 2, 4)
    views[:, 1] = 0
    assert sslkern.frossl_loss(views).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_show(value: float, dtype: torch.dtype) -> None:
    views = make_inputs(6, 2, 4, dtype)
    views[2, 1, 3] = value
    result = evaluate(sslkern.frossl_loss, views, dtype)
    assert result["loss"].isnan()
    assert result["grad_views"][:, 1, 3].isnan().all()


# ---- properties


def test_order_of_samples_views_and_columns_changes_nothing() -> None:
    z = make_inputs(12, 3, 5)
    expected = sslkern.frossl_loss(z)
    for dim in range(3):
        actual = sslkern.frossl_loss(z.flip(dim))
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_length_of_columns_changes_nothing() -> None:
    z = make_inputs(12, 3, 5)
    expected = evaluate(sslkern.frossl_loss, z, torch.float64)
    length = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).double() + 0.1
    torch.testing.assert_close(sslkern.frossl_loss(z * length), expected["loss"])
    assert expected["grad_views"].abs().max() > 1e-3
    assert (expected["grad_views"] * z).sum(0).abs().max() < 1e-14


# ---- peers


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize(("n", "v", "d"), [(12, 2, 7), (7, 3, 12), (8, 2, 8)])
def test_equals_lightly(n: int, v: int, d: int, weight: float) -> None:
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.frossl_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    ours, theirs = FroSSLLoss(weight), module.FroSSLLoss(weight)
    results = []
    for function in (ours, lambda z: theirs(list(z.unbind(1)))):
        views = make_inputs(n, v, d).requires_grad_()
        loss = function(views)
        results.append((loss.detach(), *torch.autograd.grad(loss, views)))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


# ---- determinism


def test_twice_the_same_and_inputs_are_left_alone() -> None:
    views = make_inputs(24, 2, 9, torch.float32)
    before = views.clone()
    first, again = (
        evaluate(sslkern.frossl_loss, views, torch.float32, invariance_weight=0.5) for _ in "12"
    )
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
    with pytest.raises(error, match=r"^sslkern::frossl: expected " + message):
        sslkern.frossl_loss(views)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-0.1, ValueError, "invariance_weight to be finite and not negative, got -0.1"),
        (math.nan, ValueError, "invariance_weight to be finite and not negative, got nan"),
        (math.inf, ValueError, "invariance_weight to be finite and not negative, got inf"),
        ("1", TypeError, "invariance_weight to be a number, got str"),
    ],
)
def test_bad_weight_is_refused(weight: Any, error: type[Exception], message: str) -> None:
    for call in (
        lambda: sslkern.frossl_loss(Z, invariance_weight=weight),
        lambda: FroSSLLoss(weight),
    ):
        with pytest.raises(error, match=r"^sslkern::frossl: expected " + message):
            call()


# ---- torch integration


def test_module_equals_function() -> None:
    loss_fn = FroSSLLoss(0.2)
    assert torch.equal(loss_fn(Z), sslkern.frossl_loss([A, B], invariance_weight=0.2))
    assert repr(loss_fn) == "FroSSLLoss(invariance_weight=0.2)"
    assert torch.equal(FroSSLLoss()([A, B]), sslkern.frossl_loss(Z))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.frossl_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        views = make_inputs(n, 2, 4, torch.float32)
        expected = evaluate(sslkern.frossl_loss, views, torch.float32, invariance_weight=0.5)
        actual = evaluate(compiled, views, torch.float32, invariance_weight=0.5)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)


def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        return sslkern.frossl_loss([z_a.sin(), z_b * 2], invariance_weight=0.5) + 1

    grads = []
    for function in (torch.compile(training_loss, fullgraph=True), training_loss):
        z = A.clone().requires_grad_()
        function(z, B).backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_autocast_changes_nothing_and_promotes() -> None:
    expected = sslkern.frossl_loss(Z, invariance_weight=0.5)
    with autocast():
        assert torch.equal(sslkern.frossl_loss(Z, invariance_weight=0.5), expected)
        mixed = sslkern.frossl_loss([A.bfloat16(), B.bfloat16().float()])
    assert torch.equal(mixed, sslkern.frossl_loss(Z.bfloat16()))


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(0)))
        loss = sslkern.frossl_loss(z)
    loss.backward()
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_without_grad_and_inside_inference_mode() -> None:
    expected = sslkern.frossl_loss(Z)
    with torch.no_grad():
        assert not sslkern.frossl_loss(Z.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(sslkern.frossl_loss(Z), expected)
