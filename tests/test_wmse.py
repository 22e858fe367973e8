"""W-MSE against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import autocast
from torch import Tensor

import sslkern
from sslkern import ops, reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import WMSELoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FLOATS = [torch.float64, torch.float32]

# N, D and the rows of a sub-batch.
SIZES = [(2, 1, 2), (6, 1, 3), (8, 3, 8), (24, 3, 6), (64, 8, 16), (66, 33, 66), (300, 50, 100)]

Options = dict[str, Any]
Views = tuple[Tensor, Tensor]


def make_inputs(n: int, d: int, dtype: torch.dtype = torch.float64) -> Views:
    """Two noisy views of correlated columns, away from the origin."""
    g = torch.Generator().manual_seed(0)
    shared, noise_a, noise_b = torch.randn(3, n, d, generator=g, dtype=torch.float64)
    mix = torch.eye(d, dtype=torch.float64) + 0.3 * torch.rand(d, d, generator=g).double()
    z_a, z_b = (shared + noise_a) @ mix + 1, (shared + noise_b) @ mix - 2
    return z_a.to(dtype), z_b.to(dtype)


def evaluate(
    function: Callable[..., Tensor], views: Views, dtype: torch.dtype, **options: Any
) -> dict[str, Tensor]:
    """The loss and both gradients; the sub-batches are the same every time."""
    z_a, z_b = (z.to(dtype).clone().requires_grad_() for z in views)
    g = torch.Generator().manual_seed(1)
    loss = function(z_a, z_b, generator=g, **options)
    grad_z_a, grad_z_b = torch.autograd.grad(loss, (z_a, z_b))
    return {"loss": loss.detach(), "grad_z_a": grad_z_a, "grad_z_b": grad_z_b}


def assert_like_reference(views: Views, **options: Any) -> None:
    """The accuracy rule; the loss is the difference of two numbers of the size of 2."""
    dtype = views[0].dtype
    actual = evaluate(sslkern.wmse_loss, views, dtype, **options)
    eager = evaluate(reference.wmse_loss, views, dtype, **options)
    exact = evaluate(reference.wmse_loss, views, torch.float64, **options)
    for name, expected in exact.items():
        what = f"{name}, {dtype}, {tuple(views[0].shape)}, {options}"
        # Where the gradient is zero, as of one column, the terms of the size of 1 / N cancel.
        scale = max(2.0 if name == "loss" else 1 / len(views[0]), float(expected.abs().max()))
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


# ---- the reference itself


@pytest.mark.parametrize("w_size", [None, 6])
def test_reference_passes_gradcheck(w_size: int | None) -> None:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(1)
        return reference.wmse_loss(z_a, z_b, w_size=w_size, w_iter=2, generator=g)

    assert torch.autograd.gradcheck(loss, [z.requires_grad_() for z in make_inputs(12, 3)])


def test_whitened_rows_have_the_identity_as_covariance() -> None:
    whitened = reference.wmse._whiten(make_inputs(40, 6)[0])
    torch.testing.assert_close(whitened.T.cov(), torch.eye(6).double(), rtol=0, atol=1e-13)
    assert whitened.mean(0).abs().max() < 1e-13


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "w_size"), SIZES)
def test_matches_reference(n: int, d: int, w_size: int, dtype: torch.dtype) -> None:
    views = make_inputs(n, d, dtype)
    assert_like_reference(views, w_size=w_size, w_iter=3)
    assert_like_reference(views)


@pytest.mark.parametrize("w_size", [None, 6])
def test_passes_gradcheck_of_first_and_second_order(w_size: int | None) -> None:
    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(1)
        return sslkern.wmse_loss(z_a, z_b, w_size=w_size, w_iter=2, generator=g)

    views = [z.requires_grad_() for z in make_inputs(12, 2)]
    assert torch.autograd.gradcheck(loss, views)
    assert torch.autograd.gradgradcheck(loss, views)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.wmse_loss, make_inputs(8, 3, dtype), dtype)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["grad_z_a"].dtype == result["grad_z_b"].dtype == dtype


def test_a_large_condition_number_costs_no_digits() -> None:
    """Columns that nearly depend on each other; the reference cannot factorise in float32."""
    z_a, z_b = make_inputs(64, 8)
    common = torch.linspace(1, 2, 64).double()[:, None] * 3e4
    views = (z_a + common).float(), (z_b + common).float()
    with pytest.raises(torch.linalg.LinAlgError):
        reference.wmse_loss(*views)
    actual = evaluate(sslkern.wmse_loss, views, torch.float32)
    exact = evaluate(reference.wmse_loss, views, torch.float64)
    for name, value in exact.items():
        error = (actual[name] - value).abs().max() / value.abs().max()
        assert error < 4 * torch.finfo(torch.float32).eps, name


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.T.contiguous().T,
        lambda z: torch.cat([z, z], dim=1)[:, : z.shape[1]],
        lambda z: torch.stack([z, z], dim=2)[:, :, 0],
    ],
    ids=["transposed", "row-stride", "column-stride"],
)
def test_views_give_the_same_numbers(view: Callable[[Tensor], Tensor]) -> None:
    z_a, z_b = make_inputs(24, 5)
    expected = sslkern.wmse_loss(z_a, z_b)
    torch.testing.assert_close(
        sslkern.wmse_loss(view(z_a), view(z_b)), expected, rtol=1e-12, atol=0
    )


# ---- sub-batches


def test_whole_batch_draws_nothing() -> None:
    views = make_inputs(16, 4)
    expected = sslkern.wmse_loss(*views)
    state = torch.get_rng_state()
    for options in ({"w_iter": 5}, {"w_size": 16}, {"w_size": 16, "w_iter": 3}):
        assert torch.equal(sslkern.wmse_loss(*views, **options), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_is_the_mean_over_the_sub_batches_that_are_drawn() -> None:
    z_a, z_b = make_inputs(24, 4)
    g = torch.Generator().manual_seed(5)
    parts = [p for _ in range(3) for p in torch.randperm(24, generator=g).split(8)]
    expected = torch.stack([sslkern.wmse_loss(z_a[p], z_b[p]) for p in parts]).mean()
    g.manual_seed(5)
    actual = sslkern.wmse_loss(z_a, z_b, w_size=8, w_iter=3, generator=g)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert not torch.equal(sslkern.wmse_loss(z_a, z_b, w_size=8, w_iter=3, generator=g), actual)


def test_default_generator_is_that_of_torch() -> None:
    views = make_inputs(24, 4)
    torch.manual_seed(3)
    actual = sslkern.wmse_loss(*views, w_size=8)
    g = torch.Generator().manual_seed(3)
    assert torch.equal(actual, sslkern.wmse_loss(*views, w_size=8, generator=g))


# ---- designed inputs

H = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]]).double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_and_opposite_views(dtype: torch.dtype) -> None:
    z, _ = make_inputs(64, 8, dtype)
    assert abs(sslkern.wmse_loss(z, z).item()) < 1e-6
    assert sslkern.wmse_loss(z, -z, w_size=16).item() == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonal_columns_match_closed_form(dtype: torch.dtype) -> None:
    """With one column of three negated every cosine is 1 / 3."""
    z = H.repeat(2, 1).to(dtype)
    flipped = z * torch.tensor([1, 1, -1], dtype=dtype)
    assert sslkern.wmse_loss(z, flipped).item() == pytest.approx(4 / 3, rel=1e-6)


def test_one_column_counts_signs() -> None:
    """Whitened and of unit norm, a number is its side of the mean."""
    z_a = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [9.0]])
    z_b = torch.tensor([[1.0], [8.0], [3.0], [4.0], [5.0], [2.0]])
    opposite = 3 / 6  # 2 and 4 and 9: the means are 4 and 23 / 6
    z_a[3] = 3.5
    assert sslkern.wmse_loss(z_a, z_b).item() == pytest.approx(4 * opposite, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_show(dtype: torch.dtype, value: float) -> None:
    z_a, z_b = make_inputs(24, 3, dtype)
    z_b[5, 1] = value
    for options in ({}, {"w_size": 8}):
        result = evaluate(sslkern.wmse_loss, (z_a, z_b), dtype, **options)
        assert result["loss"].isnan()
        assert result["grad_z_b"][5].isnan().all()


# ---- properties


@pytest.mark.parametrize("w_size", [None, 10])
def test_lower_triangular_maps_and_shifts_change_nothing(w_size: int | None) -> None:
    views = make_inputs(40, 5)
    expected = evaluate(sslkern.wmse_loss, views, torch.float64, w_size=w_size)["loss"]
    g = torch.Generator().manual_seed(2)
    mapped = []
    for z in views:
        lower = torch.randn(5, 5, generator=g).double().tril(-1)
        lower += torch.diag(torch.rand(5, generator=g).double() + 0.1)
        mapped.append(z @ lower.T + torch.randn(5, generator=g).double())
    actual = evaluate(sslkern.wmse_loss, (mapped[0], mapped[1]), torch.float64, w_size=w_size)
    torch.testing.assert_close(actual["loss"], expected, rtol=1e-10, atol=0)
    upper = torch.eye(5).double()
    upper[0, 4] = 2  # any other map turns the whitened rows
    turned = sslkern.wmse_loss(views[0] @ upper.T, views[1])
    assert (turned - sslkern.wmse_loss(*views)).abs() > 1e-3


def test_is_symmetric_and_does_not_depend_on_the_order() -> None:
    z_a, z_b = make_inputs(40, 5)
    expected = evaluate(sslkern.wmse_loss, (z_a, z_b), torch.float64)
    swapped = evaluate(sslkern.wmse_loss, (z_b, z_a), torch.float64)
    flipped = evaluate(sslkern.wmse_loss, (z_a.flip(0), z_b.flip(0)), torch.float64)
    for result, name in ((swapped, "grad_z_b"), (flipped, "grad_z_a")):
        torch.testing.assert_close(result["loss"], expected["loss"], rtol=1e-12, atol=0)
        grad = result[name] if name == "grad_z_b" else result[name].flip(0)
        torch.testing.assert_close(grad, expected["grad_z_a"], rtol=1e-9, atol=1e-14)


def test_gradient_does_not_move_what_whitening_undoes() -> None:
    """Neither the mean of a view nor its size, which is one of those maps."""
    views = make_inputs(40, 5)
    result = evaluate(sslkern.wmse_loss, views, torch.float64)
    for name, z in zip(("grad_z_a", "grad_z_b"), views, strict=True):
        grad = result[name]
        assert grad.abs().max() > 1e-3
        assert grad.sum(0).abs().max() < 1e-14
        assert abs(float((grad * z).sum())) < 1e-13


# ---- peers


@pytest.mark.parametrize(("w_size", "w_iter"), [(32, 1), (16, 1), (8, 3)])
def test_equals_lightly(w_size: int, w_iter: int) -> None:
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.wmse_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    theirs = module.WMSELoss(4, w_size=w_size, w_iter=w_iter, track_running_stats=False)
    ours = WMSELoss(w_size, w_iter)
    results = []
    for function in (lambda a, b: ours(a, b), lambda a, b: theirs(torch.cat([a, b]))):
        views = [z.requires_grad_() for z in make_inputs(32, 4)]
        torch.manual_seed(0)  # both draw their permutations from it
        loss = function(*views)
        results.append((loss.detach(), *torch.autograd.grad(loss, views)))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


# ---- determinism


def test_twice_the_same_and_inputs_are_left_alone() -> None:
    views = make_inputs(24, 4, torch.float32)
    before = [z.clone() for z in views]
    first, again = (
        evaluate(sslkern.wmse_loss, views, torch.float32, w_size=8, w_iter=2) for _ in "12"
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(z, b) for z, b in zip(views, before, strict=True))


# ---- errors

A, B = make_inputs(12, 3, torch.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_a": A[0]}, ValueError, r"z_a to be of shape \(N, D\) .* got shape \(3,\)"),
        ({"z_b": B[:, :0]}, ValueError, r"z_b to be .* no empty .* got shape \(12, 0\)"),
        ({"z_a": A[:1], "z_b": B[:1]}, ValueError, r"z_a to be .* N >= 2 .* got shape \(1, 3\)"),
        ({"z_a": A[:5], "z_b": B[:5]}, ValueError, r"z_a to be .* N >= 2 D .* got shape \(5, 3\)"),
        ({"z_b": B[:6]}, ValueError, r"z_b to be of the shape of z_a, \(12, 3\), got .*\(6, 3\)"),
        ({"z_b": B[:, :2]}, ValueError, r"z_b to be of the shape of z_a.* got shape \(12, 2\)"),
        ({"z_b": B.double()}, TypeError, r"z_b to be of the dtype of z_a.* got torch.float64"),
        ({"z_a": A.long()}, TypeError, r"z_a to be of dtype .* got torch.int64"),
        ({"z_b": B + 0j}, TypeError, r"z_b to be of dtype .* got torch.complex64"),
        ({"z_a": A.to_sparse()}, TypeError, r"z_a to be a dense tensor, got layout"),
        ({"z_a": [1.0]}, TypeError, r"z_a to be a tensor, got list"),
        ({"z_b": None}, TypeError, r"z_b to be a tensor, got NoneType"),
        ({"w_size": 5}, ValueError, r"w_size to be at least 2 D = 6, got 5"),
        ({"w_size": 8}, ValueError, r"z_a to be .* multiple of w_size = 8, got shape \(12, 3\)"),
        ({"w_size": 24}, ValueError, r"z_a to be .* a multiple of w_size = 24"),
        ({"w_size": 0}, ValueError, r"w_size to be positive, got 0"),
        ({"w_size": 6.0}, TypeError, r"w_size to be an integer, got float"),
        ({"w_iter": 0}, ValueError, r"w_iter to be positive, got 0"),
        ({"w_iter": True}, TypeError, r"w_iter to be an integer, got bool"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::wmse: expected " + message):
        sslkern.wmse_loss(**{"z_a": A, "z_b": B, **options})


def singular(kind: str, dtype: torch.dtype) -> Tensor:
    """Embeddings whose column 1 has nothing of its own, in exact arithmetic of the dtype."""
    z = make_inputs(12, 3)[0].to(dtype)
    z[:, 1] = {"constant": torch.full_like(z[:, 1], 7), "equal": z[:, 0], "twice": -2 * z[:, 0]}[
        kind
    ]
    return z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["constant", "equal", "twice"])
@pytest.mark.parametrize("name", ["z_a", "z_b"])
def test_singular_covariance_is_refused(name: str, kind: str, dtype: torch.dtype) -> None:
    views = {"z_a": A.to(dtype), "z_b": B.to(dtype), name: singular(kind, dtype)}
    for w_size in (None, 6):
        message = rf"^sslkern::wmse: expected {name} to be of a covariance with full rank in .* "
        with pytest.raises(ValueError, match=message + r"got one where column 1 is constant"):
            sslkern.wmse_loss(**views, w_size=w_size)


def test_sum_of_other_columns_is_refused() -> None:
    z = make_inputs(40, 8)[0]
    z[:, 6] = z[:, :6].sum(1)
    with pytest.raises(ValueError, match="column 6 is constant or depends on those before it"):
        sslkern.wmse_loss(z, z)


def test_one_singular_sub_batch_is_enough() -> None:
    """Its column is constant in any eleven of the rows."""
    z = A.clone()
    z[1:, 2] = 0
    with pytest.raises(ValueError, match=r"every sub-batch of 6 rows, got one where column 2 is"):
        sslkern.wmse_loss(z, B, w_size=6)


def test_a_factorisation_that_stops_is_noticed_whatever_it_leaves() -> None:
    covariance = torch.eye(3).expand(2, 3, 3)
    info = torch.tensor([0, 2])
    dependent = ops.wmse._dependent_columns(covariance, covariance, info)
    assert dependent.tolist() == [[False] * 3, [False, True, False]]


def test_collapse_is_refused() -> None:
    with pytest.raises(ValueError, match="got one where column 0 is constant"):
        sslkern.wmse_loss(torch.ones(8, 3), torch.ones(8, 3))


@pytest.mark.parametrize("kind", ["constant", "equal"])
def test_singular_covariance_is_nan_where_it_is_not_checked(kind: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.wmse_loss, backend="aot_eager", fullgraph=True)
    z = singular(kind, torch.float32)
    assert compiled(z, B).isnan()
    assert compiled(A, B).isfinite()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"w_size": 0}, ValueError, "w_size to be positive, got 0"),
        ({"w_size": 2.0}, TypeError, "w_size to be an integer"),
        ({"w_iter": -1}, ValueError, "w_iter to be positive, got -1"),
    ],
)
def test_module_refuses_numbers(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WMSELoss(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    g = torch.Generator().manual_seed(0)
    loss_fn = WMSELoss(6, 2, generator=g)
    expected = sslkern.wmse_loss(
        A, B, w_size=6, w_iter=2, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(loss_fn(A, B), expected)
    assert repr(loss_fn) == "WMSELoss(w_size=6, w_iter=2)"
    assert torch.equal(WMSELoss()(A, B), sslkern.wmse_loss(A, B))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("w_size", [None, 8])
def test_compiles_without_graph_break(w_size: int | None, dynamic: bool) -> None:
    torch._dynamo.reset()
    loss_fn = WMSELoss(w_size)
    compiled = torch.compile(loss_fn, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (16, 24):
        results = []
        for function in (compiled, loss_fn):
            views = [z.requires_grad_() for z in make_inputs(n, 3, torch.float32)]
            torch.manual_seed(0)
            loss = function(*views)
            results.append((loss.detach(), *torch.autograd.grad(loss, views)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        return sslkern.wmse_loss(z_a.sin(), z_b * 2) + 1

    grads = []
    for function in (torch.compile(training_loss, fullgraph=True), training_loss):
        z = A.clone().requires_grad_()
        function(z, B).backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_autocast_changes_nothing_and_promotes() -> None:
    expected = sslkern.wmse_loss(A, B)
    with autocast():
        assert torch.equal(sslkern.wmse_loss(A, B), expected)
        mixed = sslkern.wmse_loss(A.bfloat16(), B.bfloat16().float())
    assert torch.equal(mixed, sslkern.wmse_loss(A.bfloat16(), B.bfloat16()))


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)))
        loss = sslkern.wmse_loss(z, z.flip(0))
    loss.backward()
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_without_grad_and_inside_inference_mode() -> None:
    expected = sslkern.wmse_loss(A, B)
    with torch.no_grad():
        assert not sslkern.wmse_loss(A.clone().requires_grad_(), B).requires_grad
    with torch.inference_mode():
        assert torch.equal(sslkern.wmse_loss(A, B), expected)
