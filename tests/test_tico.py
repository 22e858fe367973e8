"""TiCo against its definition, `sslkern.reference`, in float64, and its running covariance."""

from __future__ import annotations

import copy
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
from sslkern.losses import TiCoLoss
from sslkern.methods import TiCoState

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZES = [(2, 1), (3, 5), (31, 33), (64, 8), (130, 127)]

Options = dict[str, Any]
Inputs = tuple[Tensor, Tensor, Tensor]


def make_inputs(n: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    """Two correlated views, none of unit norm, and the covariance of earlier unit rows."""
    g = torch.Generator().manual_seed(seed)
    shared, noise_a, noise_b = torch.randn(3, n, d, generator=g, dtype=torch.float64)
    earlier = F.normalize(torch.randn(2 * n, d, generator=g, dtype=torch.float64))
    state = earlier.T @ earlier / len(earlier)
    return (shared + noise_a).to(dtype), (shared + noise_b).to(dtype), state.to(dtype)


def evaluate(
    function: Callable[..., Tensor], x: Inputs, dtype: torch.dtype, **options: Any
) -> dict[str, Tensor]:
    """The loss and both gradients."""
    z_a, z_b = (z.to(dtype).clone().requires_grad_() for z in x[:2])
    loss = function(z_a, z_b, x[2].to(dtype), **options)
    grad_z_a, grad_z_b = torch.autograd.grad(loss, (z_a, z_b))
    return {"loss": loss.detach(), "grad_z_a": grad_z_a, "grad_z_b": grad_z_b}


def assert_like_reference(x: Inputs, **options: Any) -> None:
    """The accuracy rule; the loss is one minus a cosine, a row's gradient of two unit rows."""
    dtype = x[0].dtype
    actual = evaluate(sslkern.tico_loss, x, dtype, **options)
    eager = evaluate(reference.tico_loss, x, dtype, **options)
    exact = evaluate(reference.tico_loss, x, torch.float64, **options)
    shortest = min(float(z.double().norm(dim=1).min()) for z in x[:2])
    for name, expected in exact.items():
        term = 1.0 if name == "loss" else options.get("rho", 8.0) / len(x[0]) / shortest
        what = f"{name}, {dtype}, {tuple(x[0].shape)}, {options}"
        scale = max(term, float(expected.abs().max()))
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


# ---- the reference itself


@pytest.mark.parametrize("differentiate", [False, True])
def test_reference_is_the_formula(differentiate: bool) -> None:
    """Row by row, with the covariance as a sum of outer products."""
    z_a, z_b, state = make_inputs(4, 3)
    a, b = F.normalize(z_a), F.normalize(z_b)
    covariance = 0.7 * state + 0.3 * sum(torch.outer(x, x) for x in a) / 4
    losses = [1 - x @ y + 5 * x @ covariance @ x for x, y in zip(a, b, strict=True)]
    loss = reference.tico_loss(
        z_a, z_b, state, beta=0.7, rho=5.0, differentiate_covariance=differentiate
    )
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-12, atol=0)


def test_reference_passes_gradcheck() -> None:
    """Where the covariance is a constant, numerical derivatives see it move all the same."""
    z_a, z_b, state = make_inputs(4, 3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return reference.tico_loss(a, b, state, differentiate_covariance=True)

    assert torch.autograd.gradcheck(loss, (z_a.requires_grad_(), z_b.requires_grad_()))


# ---- forward, gradient


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_matches_reference(n: int, d: int, dtype: torch.dtype, differentiate: bool) -> None:
    x = make_inputs(n, d, dtype)
    assert_like_reference(x, differentiate_covariance=differentiate)
    assert_like_reference(x, differentiate_covariance=differentiate, beta=0.0, rho=20.0)
    assert_like_reference(x, beta=0.99, rho=0.0)


def test_passes_gradcheck_of_first_and_second_order() -> None:
    z_a, z_b, state = make_inputs(4, 3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.tico_loss(a, b, state, differentiate_covariance=True)

    views = (z_a.requires_grad_(), z_b.requires_grad_())
    assert torch.autograd.gradcheck(loss, views)
    assert torch.autograd.gradgradcheck(loss, views)


def test_covariance_is_a_constant_by_default() -> None:
    """The gradient is that with the matrix of this batch put in by hand."""
    z_a, z_b, state = make_inputs(6, 4)
    unit = F.normalize(z_a)
    now = 0.9 * state + 0.1 * unit.T @ unit / 6
    actual = evaluate(sslkern.tico_loss, (z_a, z_b, state), torch.float64)
    z = z_a.clone().requires_grad_()
    a = F.normalize(z)
    loss = 1 - (a * F.normalize(z_b)).sum(1).mean() + 8 * torch.trace(a @ now @ a.T) / 6
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(actual["grad_z_a"], expected, rtol=1e-12, atol=1e-15)
    through = evaluate(
        sslkern.tico_loss, (z_a, z_b, state), torch.float64, differentiate_covariance=True
    )
    assert (through["grad_z_a"] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.tico_loss, make_inputs(6, 3, dtype), dtype)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["grad_z_a"].dtype == result["grad_z_b"].dtype == dtype


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
    x = make_inputs(24, 5)
    expected = sslkern.tico_loss(*x)
    actual = sslkern.tico_loss(*(view(z) for z in x))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


# ---- the state


def test_state_follows_the_moving_average() -> None:
    state, expected = TiCoState(), torch.zeros(5, 5).double()
    for seed in range(4):
        z_a, z_b, _ = make_inputs(7, 5, seed=seed)
        loss = sslkern.tico_loss(z_a, z_b, state, beta=0.6)
        of_expected = sslkern.tico_loss(z_a, z_b, expected, beta=0.6)
        torch.testing.assert_close(loss, of_expected, rtol=1e-12, atol=0)
        unit = F.normalize(z_a)
        expected = 0.6 * expected + 0.4 * unit.T @ unit / 7
        torch.testing.assert_close(state.covariance, expected, rtol=1e-12, atol=1e-15)
    assert not state.covariance.requires_grad


def test_state_stays_without_update_and_a_tensor_always() -> None:
    z_a, z_b, earlier = make_inputs(7, 5, torch.float32)
    state = TiCoState(5)
    state.update(earlier)
    expected = sslkern.tico_loss(z_a, z_b, earlier)
    for again in (state, earlier):
        options: Options = {"update": False} if again is state else {}
        assert torch.equal(sslkern.tico_loss(z_a, z_b, again, **options), expected)
    assert torch.equal(state.covariance, earlier)
    sslkern.tico_loss(z_a, z_b, state)
    assert not torch.equal(state.covariance, earlier)


def test_module_moves_its_state_in_training_mode_alone() -> None:
    z_a, z_b, _ = make_inputs(7, 5, torch.float32)
    loss_fn = TiCoLoss().eval()
    first = loss_fn(z_a, z_b)
    assert torch.equal(loss_fn(z_a, z_b), first)
    assert loss_fn.state.covariance.abs().max() == 0
    loss_fn.train()
    assert torch.equal(loss_fn(z_a, z_b), first)
    assert loss_fn(z_a, z_b) > first


def test_state_may_move_between_forward_and_backward() -> None:
    """Two losses of one state, and one backward."""
    (a, b, _), (c, d, _) = make_inputs(6, 4), make_inputs(6, 4, seed=1)
    loss_fn = TiCoLoss()
    z = a.clone().requires_grad_()
    first = loss_fn(z, b)
    (first + loss_fn(c, d)).backward()
    z_again = a.clone().requires_grad_()
    sslkern.tico_loss(z_again, b, torch.zeros(4, 4).double()).backward()
    assert torch.equal(z.grad, z_again.grad)


@pytest.mark.parametrize("dim", [None, 4])
def test_training_resumes_from_a_state(dim: int | None) -> None:
    loss_fn = TiCoLoss()
    for seed in range(3):
        loss_fn(*make_inputs(6, 4, torch.float32, seed)[:2])
    resumed = TiCoLoss(dim=dim)
    resumed.load_state_dict(copy.deepcopy(loss_fn.state_dict()))
    for seed in range(3, 5):
        x = make_inputs(6, 4, torch.float32, seed)[:2]
        assert torch.equal(resumed(*x), loss_fn(*x))


def test_state_before_the_first_batch_resumes_as_well() -> None:
    saved = copy.deepcopy(TiCoLoss().state_dict())
    loss_fn = TiCoLoss()
    x = make_inputs(6, 4, torch.float32)[:2]
    expected = loss_fn(*x)
    loss_fn.load_state_dict(saved)
    assert torch.equal(loss_fn(*x), expected)


def test_state_of_another_width_is_refused() -> None:
    state = TiCoState(3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        TiCoState(4).load_state_dict(state.state_dict())
    with pytest.raises(ValueError, match=r"state to be of shape \(D, D\) with the D of z_a, 4"):
        sslkern.tico_loss(*make_inputs(6, 4, torch.float32)[:2], state)


def test_state_takes_the_dtype_of_the_arithmetic_or_keeps_its_own() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        state, given = TiCoState(), TiCoState(4)
        for s in (state, given):
            sslkern.tico_loss(*make_inputs(6, 4, dtype)[:2], s)
        assert state.covariance.dtype == expected
        assert given.covariance.dtype == torch.float32
        torch.testing.assert_close(state.covariance.float(), given.covariance)
    assert TiCoLoss(dim=4).double().state.covariance.dtype == torch.float64


def test_a_batch_that_is_not_finite_leaves_the_state() -> None:
    z_a, z_b, earlier = make_inputs(6, 4, torch.float32)
    state = TiCoState(4)
    state.update(earlier)
    z_a[3, 1] = math.inf
    assert sslkern.tico_loss(z_a, z_b, state).isnan()
    assert torch.equal(state.covariance, earlier)


def test_evaluation_in_inference_mode_does_not_end_training() -> None:
    z_a, z_b, _ = make_inputs(6, 4, torch.float32)
    loss_fn = TiCoLoss()
    with torch.inference_mode():
        first = loss_fn(z_a, z_b)
    z_a.requires_grad_()
    loss = loss_fn(z_a, z_b)
    loss.backward()
    assert loss > first
    assert z_a.grad is not None


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
def test_collapse_and_orthonormal_rows_match_closed_forms(dtype: torch.dtype) -> None:
    """From nothing: rho (1 - beta), over N where the rows are orthonormal."""
    same, rows = torch.ones(6, 4, dtype=dtype), torch.eye(4, dtype=dtype)
    zero = torch.zeros(4, 4, dtype=dtype)
    assert sslkern.tico_loss(same, same, zero).item() == pytest.approx(0.8, rel=1e-6)
    assert sslkern.tico_loss(rows, rows, zero).item() == pytest.approx(0.2, rel=1e-6)
    opposite = sslkern.tico_loss(rows, -rows, zero, beta=0.5, rho=3.0)
    assert opposite.item() == pytest.approx(2 + 3 * 0.5 / 4, rel=1e-6)


def test_settles_where_the_covariance_of_the_batch_is() -> None:
    loss_fn = TiCoLoss(beta=0.5)
    rows = torch.eye(4)
    losses = [loss_fn(rows, rows).item() for _ in range(30)]
    assert losses[:2] == pytest.approx([1.0, 1.5])
    assert losses[-1] == pytest.approx(8 / 4, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_have_no_cosine_and_no_gradient(dtype: torch.dtype) -> None:
    x = make_inputs(6, 4, dtype)
    x[0][2] = 0
    actual = evaluate(sslkern.tico_loss, x, dtype)
    exact = evaluate(reference.tico_loss, x, torch.float64)
    torch.testing.assert_close(actual["loss"].double(), exact["loss"], rtol=1e-5, atol=0)
    assert actual["grad_z_a"][2].abs().max() == 0
    assert actual["grad_z_a"].isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["z_a", "z_b"])
def test_nan_and_infinity_show(name: str, value: float) -> None:
    x = make_inputs(6, 4, torch.float32)
    x[("z_a", "z_b").index(name)][2, 3] = value
    assert evaluate(sslkern.tico_loss, x, torch.float32)["loss"].isnan()


# ---- properties


def test_order_and_length_of_rows_and_rotations_change_nothing() -> None:
    z_a, z_b, state = make_inputs(20, 5)
    expected = sslkern.tico_loss(z_a, z_b, state)
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double())[0]
    length = torch.linspace(0.1, 10, 20).double()[:, None]
    for actual in (
        sslkern.tico_loss(z_a.flip(0), z_b.flip(0), state),
        sslkern.tico_loss(length * z_a, z_b / length, state),
        sslkern.tico_loss(z_a @ q, z_b @ q, q.T @ state @ q),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert (sslkern.tico_loss(z_a @ q, z_b @ q, state) - expected).abs() > 1e-3


@pytest.mark.parametrize("differentiate", [False, True])
def test_gradient_is_orthogonal_to_the_rows(differentiate: bool) -> None:
    x = make_inputs(20, 5)
    result = evaluate(sslkern.tico_loss, x, torch.float64, differentiate_covariance=differentiate)
    for name, z in zip(("grad_z_a", "grad_z_b"), x, strict=False):
        assert result[name].abs().max() > 1e-3
        assert (result[name] * z).sum(1).abs().max() < 1e-15


# ---- peers


@pytest.mark.parametrize(("beta", "rho"), [(0.9, 8.0), (0.5, 20.0)])
def test_equals_lightly_over_several_steps(beta: float, rho: float) -> None:
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.tico_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    ours, theirs = TiCoLoss(beta, rho), module.TiCoLoss(beta, rho)
    for seed in range(5):
        results = []
        for function in (ours, theirs):
            views = [z.requires_grad_() for z in make_inputs(12, 7, seed=seed)[:2]]
            loss = function(*views)
            results.append((loss.detach(), *torch.autograd.grad(loss, views)))
        for got, expected in zip(*results, strict=True):
            assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


# ---- determinism


def test_twice_the_same_and_inputs_are_left_alone() -> None:
    x = make_inputs(24, 4, torch.float32)
    before = [z.clone() for z in x]
    first, again = (evaluate(sslkern.tico_loss, x, torch.float32) for _ in "12")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(z, b) for z, b in zip(x, before, strict=True))


# ---- errors

A, B, C = make_inputs(6, 4, torch.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_a": A[0]}, ValueError, r"z_a to be of shape \(N, D\) .* got shape \(4,\)"),
        ({"z_b": B[:, :0]}, ValueError, r"z_b to be .* no empty .* got shape \(6, 0\)"),
        ({"z_a": A[:1], "z_b": B[:1]}, ValueError, r"z_a to be .* N >= 2 .* got shape \(1, 4\)"),
        ({"z_b": B[:3]}, ValueError, r"z_b to be of the shape of z_a, \(6, 4\), got .*\(3, 4\)"),
        ({"z_b": B.double()}, TypeError, r"z_b to be of the dtype of z_a.* got torch.float64"),
        ({"z_a": A.long()}, TypeError, r"z_a to be of dtype .* got torch.int64"),
        ({"z_a": A.to_sparse()}, TypeError, r"z_a to be a dense tensor, got layout"),
        ({"z_a": [1.0]}, TypeError, r"z_a to be a tensor, got list"),
        ({"state": C[0]}, ValueError, r"state to be of shape \(D, D\) with no empty .* \(4,\)"),
        ({"state": C[:3]}, ValueError, r"state to be .* the D of z_a, 4, got shape \(3, 4\)"),
        ({"state": C[:3, :3]}, ValueError, r"state to be .* the D of z_a, 4, got shape \(3, 3\)"),
        ({"state": C.long()}, TypeError, r"state to be of dtype .* got torch.int64"),
        ({"state": None}, TypeError, r"state to be a tensor, got NoneType"),
        (
            {"state": C.clone().requires_grad_()},
            ValueError,
            r"state to require no gradient.* Pass state.detach\(\)",
        ),
        ({"beta": 1.0}, ValueError, r"beta to be in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, ValueError, r"beta to be in \[0, 1\), got -0.1"),
        ({"beta": math.nan}, ValueError, r"beta to be in \[0, 1\), got nan"),
        ({"beta": "0.9"}, TypeError, r"beta to be a number, got str"),
        ({"rho": -1.0}, ValueError, r"rho to be finite and not negative, got -1.0"),
        ({"rho": math.inf}, ValueError, r"rho to be finite and not negative, got inf"),
        ({"rho": True}, TypeError, r"rho to be a number, got bool"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::tico: expected " + message):
        sslkern.tico_loss(**{"z_a": A, "z_b": B, "state": C, **options})


@pytest.mark.parametrize("options", [{"beta": 1.0}, {"rho": -1.0}, {"dim": 0}])
def test_module_refuses_numbers(options: Options) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} to be "):
        TiCoLoss(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    loss_fn = TiCoLoss(0.8, 3.0, dim=4, differentiate_covariance=True)
    loss_fn.state.update(C)
    options: Options = {"beta": 0.8, "rho": 3.0, "differentiate_covariance": True}
    assert torch.equal(loss_fn(A, B), sslkern.tico_loss(A, B, C, **options))
    assert "beta=0.8, rho=3.0, differentiate_covariance=True" in repr(loss_fn)
    assert "TiCoState(dim=4)" in repr(loss_fn)
    assert "TiCoState(dim=None)" in repr(TiCoLoss())


@pytest.mark.parametrize("dim", [None, 4])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic: bool, dim: int | None) -> None:
    torch._dynamo.reset()
    loss_fn, compiled_fn = TiCoLoss(dim=dim), TiCoLoss(dim=dim)
    compiled = torch.compile(compiled_fn, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (6, 9, 6):
        results = []
        for function in (compiled, loss_fn):
            views = [z.requires_grad_() for z in make_inputs(n, 4, torch.float32)[:2]]
            loss = function(*views)
            results.append((loss.detach(), *torch.autograd.grad(loss, views)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compiled_fn.state.covariance, loss_fn.state.covariance)


def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    results = []
    for compiled in (True, False):
        state = TiCoState(4)

        def training_loss(z_a: Tensor, z_b: Tensor, state: TiCoState = state) -> Tensor:
            return sslkern.tico_loss(z_a.sin(), z_b * 2, state) + 1

        function = torch.compile(training_loss, fullgraph=True) if compiled else training_loss
        z = A.clone().requires_grad_()
        function(z, B).backward()
        results.append((z.grad, state.covariance))
    torch.testing.assert_close(*results)


def test_autocast_changes_nothing_and_promotes() -> None:
    expected = sslkern.tico_loss(A, B, C)
    with autocast():
        assert torch.equal(sslkern.tico_loss(A, B, C), expected)
        mixed = sslkern.tico_loss(A.bfloat16(), B.bfloat16().float(), C)
    assert torch.equal(mixed, sslkern.tico_loss(A.bfloat16(), B.bfloat16(), C))


def test_autocast_trains_through_a_layer() -> None:
    layer, loss_fn = torch.nn.Linear(5, 4), TiCoLoss()
    with autocast():
        z = layer(torch.randn(8, 5))
        loss = loss_fn(z, z.detach().flip(0))
    loss.backward()
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert loss_fn.state.covariance.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
