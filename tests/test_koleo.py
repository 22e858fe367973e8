"""KoLeo against its definition, `sslkern.reference`, in float64, and its search for neighbours."""

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
from sslkern.losses import KoLeoLoss
from sslkern.ops import koleo

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZES = [(2, 1), (2, 3), (3, 5), (33, 2), (64, 16), (200, 65), (31, 130)]
NORMS = [1.0, 2.0, 3.0, math.inf]

Options = dict[str, Any]


def make_inputs(n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows of different lengths."""
    g = torch.Generator().manual_seed(0)
    length = torch.rand(n, 1, generator=g, dtype=torch.float64) + 0.5
    return (torch.randn(n, d, generator=g, dtype=torch.float64) * length).to(dtype)


def evaluate(
    function: Callable[..., Tensor], z: Tensor, dtype: torch.dtype, **options: Any
) -> dict[str, Tensor]:
    """The loss and its gradient."""
    z = z.to(dtype).clone().requires_grad_()
    loss = function(z, **options)
    (grad_z,) = torch.autograd.grad(loss, z)
    return {"loss": loss.detach(), "grad_z": grad_z}


def assert_like_reference(z: Tensor, **options: Any) -> None:
    """The accuracy rule.

    A logarithm takes the relative error of its distance, which is that of the rows over it; a
    gradient is a difference of unit rows, over their distance and length.
    """
    dtype = z.dtype
    actual = evaluate(sslkern.koleo_loss, z, dtype, **options)
    eager = evaluate(reference.koleo_loss, z, dtype, **options)
    exact = evaluate(reference.koleo_loss, z, torch.float64, **options)
    unit = F.normalize(z.double())
    apart = torch.cdist(unit, unit).fill_diagonal_(math.inf).min(1)[0]
    nearest = max(1.0, float((1 / apart).masked_fill(apart == 0, 0).max()))
    shortest = float(z.double().norm(dim=1).min())
    for name, expected in exact.items():
        term = nearest if name == "loss" else nearest / len(z) / shortest
        what = f"{name}, {dtype}, {tuple(z.shape)}, {options}"
        scale = max(term, float(expected.abs().max()))
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


# ---- the reference itself


@pytest.mark.parametrize("p", NORMS)
def test_reference_is_the_formula(p: float) -> None:
    """Row by row, in any order of the others."""
    z = F.normalize(make_inputs(9, 4))
    losses = []
    for i, x in enumerate(z):
        others = torch.cat([z[:i], z[i + 1 :]]).flip(0)
        nearest = others[(others - x).square().sum(1).argmin()]
        losses.append(-torch.log((x - nearest).norm(p=p) + 1e-3))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(reference.koleo_loss(z * 3, p=p, eps=1e-3), expected)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("function", [reference.koleo_loss, sslkern.koleo_loss])
def test_passes_gradcheck_of_first_and_second_order(
    function: Callable[..., Tensor], p: float
) -> None:
    def loss(z: Tensor) -> Tensor:
        return function(z, p=p)

    z = make_inputs(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_matches_reference(n: int, d: int, dtype: torch.dtype) -> None:
    z = make_inputs(n, d, dtype)
    assert_like_reference(z)
    assert_like_reference(z, p=1, eps=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.koleo_loss, make_inputs(6, 3, dtype), dtype)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["grad_z"].dtype == dtype


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
    z = make_inputs(24, 5)
    expected = sslkern.koleo_loss(z)
    torch.testing.assert_close(sslkern.koleo_loss(view(z)), expected, rtol=1e-12, atol=1e-15)


# ---- the search


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


@pytest.mark.parametrize("block", [1, 99, 100, 250, 9999])
def test_blocks_bound_the_memory_and_change_nothing(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, d = 100, 3
    z = make_inputs(n, d)
    expected = evaluate(sslkern.koleo_loss, z, torch.float64)
    monkeypatch.setattr(koleo, "_BLOCK", block)
    with LargestOutput() as largest:
        actual = evaluate(sslkern.koleo_loss, z, torch.float64)
    assert largest.elements <= max(block, n * d)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-13, atol=1e-15)


def test_more_rows_than_a_block_holds() -> None:
    """On a circle, in any order, with its neighbours at equal angles."""
    n = 3000
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    angle = order.double() * (2 * math.pi / n)
    z = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert n * n > koleo._BLOCK
    expected = -math.log(2 * math.sin(math.pi / n) + 1e-8)
    assert sslkern.koleo_loss(z).item() == pytest.approx(expected, rel=1e-9)


def test_neighbours_are_found_where_all_rows_nearly_coincide() -> None:
    """Products of unit rows are all one in float32, and those of the reference tell nothing."""
    g = torch.Generator().manual_seed(0)
    z = torch.ones(200, 16) + 1e-5 * torch.randn(200, 16, generator=g)
    exact = reference.koleo_loss(z.double())
    assert abs(sslkern.koleo_loss(z).double() - exact) < 1e-2
    assert abs(reference.koleo_loss(z).double() - exact) > 0.1


def test_both_rows_of_a_pair_have_a_gradient() -> None:
    """Row 1 is the neighbour of both others and moves for all three distances."""
    angle = torch.tensor([0.0, 0.5, 1.2]).double()
    z = torch.stack([angle.cos(), angle.sin()], dim=1)
    grad = evaluate(sslkern.koleo_loss, z, torch.float64, eps=1e-12)["grad_z"]
    tangent = torch.stack([-angle.sin(), angle.cos()], dim=1)
    slope = [0.5 / math.tan(gap / 2) for gap in (0.5, 0.7)]  # of log(2 sin(gap / 2))
    expected = torch.tensor([2 * slope[0], slope[1] - 2 * slope[0], -slope[1]]).double() / 3
    torch.testing.assert_close((grad * tangent).sum(1), expected, rtol=1e-6, atol=1e-12)


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_and_orthonormal_rows_match_closed_forms(dtype: torch.dtype) -> None:
    pair = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], dtype=dtype)
    assert sslkern.koleo_loss(pair).item() == pytest.approx(-math.log(2), rel=1e-6)
    for n in (2, 5):
        loss = sslkern.koleo_loss(torch.eye(n, dtype=dtype) * 2)
        assert loss.item() == pytest.approx(-math.log(2) / 2, rel=1e-6)


@pytest.mark.parametrize("n", [3, 10])
def test_simplex_matches_closed_form(n: int) -> None:
    """N points at equal distances: nothing is farther apart."""
    z = torch.eye(n).double() - 1 / n
    expected = -math.log(math.sqrt(2 * n / (n - 1)) + 1e-8)
    assert sslkern.koleo_loss(z).item() == pytest.approx(expected, rel=1e-12)
    assert sslkern.koleo_loss(make_inputs(n, n)).item() > expected


@pytest.mark.parametrize(("p", "distance"), [(1, 2), (2, 2**0.5), (3, 2 ** (1 / 3)), (math.inf, 1)])
def test_norms_of_the_distance(p: float, distance: float) -> None:
    loss = sslkern.koleo_loss(torch.eye(2).double(), p=p, eps=0.25)
    assert loss.item() == pytest.approx(-math.log(distance + 0.25), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_coincide_have_a_finite_loss_and_no_gradient(dtype: torch.dtype) -> None:
    z = torch.eye(4, dtype=dtype)[[0, 0, 1, 2]]
    result = evaluate(sslkern.koleo_loss, z, dtype)
    expected = (-2 * math.log(1e-8) - 2 * math.log(2) / 2) / 4
    assert result["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert result["grad_z"][3].abs().max() > 0
    collapsed = evaluate(sslkern.koleo_loss, torch.ones(5, 3, dtype=dtype), dtype)
    assert collapsed["loss"].item() == pytest.approx(-math.log(1e-8), rel=1e-6)
    assert collapsed["grad_z"].abs().max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_are_at_a_distance_of_one(dtype: torch.dtype) -> None:
    """Nearer to a row than another that is orthogonal, and no gradient of their own."""
    z = torch.eye(3, dtype=dtype)
    z[2] = 0
    result = evaluate(sslkern.koleo_loss, z, dtype)
    assert abs(result["loss"].item()) < 1e-6
    assert result["grad_z"][2].abs().max() == 0
    assert result["grad_z"].isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_show(dtype: torch.dtype, value: float) -> None:
    z = make_inputs(6, 4, dtype)
    z[2, 3] = value
    result = evaluate(sslkern.koleo_loss, z, dtype)
    assert result["loss"].isnan()
    assert result["grad_z"][2].isnan().all()


# ---- properties


def test_order_and_length_of_rows_and_rotations_change_nothing() -> None:
    z = make_inputs(40, 5)
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double())[0]
    length = torch.linspace(0.1, 10, 40).double()[:, None]
    expected = sslkern.koleo_loss(z)
    for other in (z.flip(0), z * length, z @ q):
        torch.testing.assert_close(sslkern.koleo_loss(other), expected, rtol=1e-12, atol=0)


def test_gradient_is_orthogonal_to_the_rows() -> None:
    z = make_inputs(40, 5)
    grad = evaluate(sslkern.koleo_loss, z, torch.float64)["grad_z"]
    assert grad.abs().max() > 1e-3
    assert (grad * z).sum(1).abs().max() < 1e-14


# ---- peers


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (12, 7), (60, 16)])
def test_equals_lightly(n: int, d: int, p: int) -> None:
    """Whose distances also have eps added to each coordinate, too little to notice here."""
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.koleo_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    for eps, tolerance in ((1e-8, 1e-6), (1e-12, 1e-10)):
        ours, theirs = KoLeoLoss(p, eps), module.KoLeoLoss(p, eps)
        results = []
        for function in (ours, theirs):
            z = make_inputs(n, d).requires_grad_()
            loss = function(z)
            results.append((loss.detach(), *torch.autograd.grad(loss, z)))
        for got, expected in zip(*results, strict=True):
            assert (got - expected).abs().max() <= tolerance * expected.abs().max()


# ---- determinism


def test_twice_the_same_and_inputs_are_left_alone() -> None:
    z = make_inputs(64, 9, torch.float32)
    before = z.clone()
    first, again = (evaluate(sslkern.koleo_loss, z, torch.float32) for _ in "12")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(z, before)


# ---- errors

Z = make_inputs(6, 4, torch.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z": Z[0]}, ValueError, r"z to be of shape \(N, D\) .* got shape \(4,\)"),
        ({"z": Z[:1]}, ValueError, r"z to be of shape .* N >= 2 .* got shape \(1, 4\)"),
        ({"z": Z[:0]}, ValueError, r"z to be of shape .* got shape \(0, 4\)"),
        ({"z": Z[:, :0]}, ValueError, r"z to be of shape .* no empty .* got shape \(6, 0\)"),
        ({"z": Z.long()}, TypeError, r"z to be of dtype .* got torch.int64"),
        ({"z": Z + 0j}, TypeError, r"z to be of dtype .* got torch.complex64"),
        ({"z": Z.to_sparse()}, TypeError, r"z to be a dense tensor, got layout"),
        ({"z": [1.0]}, TypeError, r"z to be a tensor, got list"),
        ({"p": 0.5}, ValueError, r"p to be at least 1, got 0.5"),
        ({"p": math.nan}, ValueError, r"p to be at least 1, got nan"),
        ({"p": "fro"}, TypeError, r"p to be a number, got str"),
        ({"eps": 0.0}, ValueError, r"eps to be positive and finite, got 0.0"),
        ({"eps": math.inf}, ValueError, r"eps to be positive and finite, got inf"),
        ({"eps": None}, TypeError, r"eps to be a number, got NoneType"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::koleo: expected " + message):
        sslkern.koleo_loss(**{"z": Z, **options})
    if "z" not in options:
        with pytest.raises(error, match=r"^sslkern::koleo: expected " + message):
            KoLeoLoss(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    loss_fn = KoLeoLoss(1, eps=1e-3)
    assert torch.equal(loss_fn(Z), sslkern.koleo_loss(Z, p=1, eps=1e-3))
    assert repr(loss_fn) == "KoLeoLoss(p=1, eps=0.001)"
    assert torch.equal(KoLeoLoss()(Z), sslkern.koleo_loss(Z))


@pytest.mark.parametrize("block", [16, 1 << 22])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(
    dynamic: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(koleo, "_BLOCK", block)
    compiled = torch.compile(
        sslkern.koleo_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        z = make_inputs(n, 4, torch.float32)
        expected = evaluate(sslkern.koleo_loss, z, torch.float32)
        actual = evaluate(compiled, z, torch.float32)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)


def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(z: Tensor) -> Tensor:
        return sslkern.koleo_loss(z.sin()) + 1

    grads = []
    for function in (torch.compile(training_loss, fullgraph=True), training_loss):
        z = Z.clone().requires_grad_()
        function(z).backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_autocast_changes_nothing() -> None:
    """So many rows that products in bfloat16 would find other neighbours."""
    z = make_inputs(300, 4, torch.float32)
    expected = sslkern.koleo_loss(z)
    with autocast():
        assert torch.equal(sslkern.koleo_loss(z), expected)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
        loss = sslkern.koleo_loss(z)
    loss.backward()
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_without_grad_and_inside_inference_mode() -> None:
    expected = sslkern.koleo_loss(Z)
    with torch.no_grad():
        assert not sslkern.koleo_loss(Z.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        assert torch.equal(sslkern.koleo_loss(Z), expected)
