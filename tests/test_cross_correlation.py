"""Barlow Twins against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from devices import autocast
from gradients import passes_gradcheck
from memory_layouts import in_memory_layouts
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.losses import BarlowTwinsLoss
from sslkern.verification import terms

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N x D around vectors, strips of 8 to 32 columns, tiles of 96 and passes of 256.
SIZES = [
    (2, 1), (2, 3), (5, 1), (3, 31), (12, 33), (33, 12), (96, 97), (97, 96), (33, 300), (289, 100),
    (130, 257),
]  # fmt: skip

# How the products are taken: "auto" is the public way.
ROUTES = ["auto", "gram", "direct"]
LEAVES = ("z_a", "z_b")

OPS = torch.ops.sslkern
Options = dict[str, Any]


class Views(NamedTuple):
    """Two views of a batch."""

    z_a: Tensor
    z_b: Tensor


def make_views(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Views:
    """Views that correlate, their columns of different means and variances."""
    g = torch.Generator().manual_seed(seed)
    shared, noise_a, noise_b = torch.randn(3, n, d, generator=g, dtype=torch.float64)
    spread = torch.rand(d, generator=g, dtype=torch.float64) + 0.5
    shift = torch.randn(d, generator=g, dtype=torch.float64)
    return Views(*(((shared + x) * spread + shift).to(dtype) for x in (noise_a, noise_b)))


def loss_by(route: str) -> Callable[..., Tensor]:
    """The function, or its operator made to take one kind of products."""
    if route == "auto":
        return sslkern.barlow_twins_loss

    def loss(z_a: Tensor, z_b: Tensor, lambda_param: float = 5e-3, *, eps: float = 1e-5) -> Tensor:
        value: Tensor = OPS.cross_correlation_fwd(z_a, z_b, lambda_param, eps, route, True)[0]
        return value

    return loss


def evaluate(
    function: Callable[..., Any],
    x: Views,
    *arguments: object,
    frozen: tuple[str, ...] = (),
    factor: float = 1.0,
    **options: object,
) -> dict[str, Tensor]:
    """The loss and the gradients of ``factor`` times it but those of what is ``frozen``."""
    leaves = {k: z.clone().requires_grad_(k not in frozen) for k, z in x._asdict().items()}
    loss = function(*leaves.values(), *arguments, **options)
    (factor * loss).backward()
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen), name
    grads = {name: z.grad for name, z in leaves.items() if z.grad is not None}
    return {"loss": loss.detach()} | grads


def assert_like_reference(
    x: Views,
    route: str = "auto",
    weight: float = 5e-3,
    frozen: tuple[str, ...] = (),
    factor: float = 1.0,
    **options: Any,
) -> None:
    """The accuracy rule for the loss and both gradients.

    Errors of the gradients are relative to the gradients of the standardised columns, of which
    only a part comes through the standardisation.
    """
    arguments: Options = {"frozen": frozen, "factor": factor, **options}
    wide = Views(*(z.double() for z in x))
    actual = evaluate(loss_by(route), x, weight, **arguments)
    eager = evaluate(reference.barlow_twins_loss, x, weight, **arguments)
    exact = evaluate(reference.barlow_twins_loss, wide, weight, **arguments)
    sizes = sizes_of_terms(wide, weight)
    for name, expected in exact.items():
        size = max(factor * sizes[name] if name != "loss" else 0.0, float(expected.abs().max()))
        if x.z_a.dtype == torch.float64 and route == "gram" and name == "loss":
            size += weight * diagonal_of(wide)  # the difference of two sums; nothing is wider
        what = f"{name}, {route}, {x.z_a.dtype}, {tuple(x.z_a.shape)}, lambda {weight}"
        assert_accurate(actual[name], eager[name], expected, what, scale=size)


def sizes_of_terms(x: Views, weight: float) -> dict[str, float]:
    case = terms.Case(x._asdict(), 1, False, "", 1.0, 1.0)
    return terms.barlow_twins(case, weight).sizes


def correlation_of(x: Views) -> Tensor:
    a, b = (F.batch_norm(z, None, None, training=True) for z in x)
    return a.T @ b / len(a)


def diagonal_of(x: Views) -> float:
    return float(correlation_of(x).diagonal().square().sum())


# ---- the reference itself


def test_reference_passes_gradcheck() -> None:
    inputs = [z.requires_grad_() for z in make_views(5, 4, torch.float64)]
    assert torch.autograd.gradcheck(
        lambda a, b: reference.barlow_twins_loss(a, b, 0.3, eps=1e-3, scale=0.7), inputs
    )


def test_reference_is_the_distance_from_the_identity() -> None:
    x = make_views(9, 6, torch.float64)
    c = correlation_of(x)
    distance = (c - torch.eye(6, dtype=torch.float64)).square()
    on = distance.diagonal().sum()
    off = distance.sum() - on
    loss, parts = reference.barlow_twins_loss(*x, 0.3, scale=2.0, return_terms=True)
    torch.testing.assert_close(loss, 2 * (on + 0.3 * off), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.on_diagonal, on, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.off_diagonal, off, rtol=1e-12, atol=0)


def test_products_of_rows_hold_the_sum_of_squares() -> None:
    """The identity that saves the D x D matrix."""
    x = make_views(7, 20, torch.float64)
    a, b = (F.batch_norm(z, None, None, training=True) for z in x)
    rows = ((a @ a.T) * (b @ b.T)).sum() / 49
    torch.testing.assert_close(rows, correlation_of(x).square().sum(), rtol=1e-12, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("route", ROUTES)
def test_matches_reference(route: str, n: int, d: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_views(n, d, dtype), route)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "route"), [(300, 2100, "auto"), (2100, 300, "auto"), (700, 800, "auto")]
)
def test_matches_reference_in_several_slabs(n: int, d: int, route: str, dtype: torch.dtype) -> None:
    """The inner dimension of the products is packed a part at a time, here in two."""
    assert_like_reference(make_views(n, d, dtype), route)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.0, 0.0051, 1.0, 30.0, -0.5])
@pytest.mark.parametrize("route", ROUTES)
def test_matches_reference_for_any_weight(route: str, weight: float, dtype: torch.dtype) -> None:
    assert_like_reference(make_views(40, 60, dtype), route, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.5])
@pytest.mark.parametrize("route", ROUTES)
def test_matches_reference_for_any_eps(route: str, eps: float, dtype: torch.dtype) -> None:
    assert_like_reference(make_views(40, 30, dtype), route, eps=eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frozen", [("z_a",), ("z_b",)])
@pytest.mark.parametrize("route", ROUTES)
def test_either_view_may_be_frozen(route: str, frozen: tuple[str, ...], dtype: torch.dtype) -> None:
    assert_like_reference(make_views(70, 110, dtype), route, frozen=frozen)


@pytest.mark.parametrize("route", ["gram", "direct"])
def test_passes_gradcheck(route: str) -> None:
    inputs = [z.requires_grad_() for z in make_views(5, 6, torch.float64)]
    assert passes_gradcheck(lambda a, b: loss_by(route)(a, b, 0.3, eps=1e-3), inputs)


def test_scale_passes_gradcheck() -> None:
    inputs = [z.requires_grad_() for z in make_views(5, 4, torch.float64)]
    assert passes_gradcheck(lambda a, b: sslkern.barlow_twins_loss(a, b, 0.3, scale=0.025), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes_and_shapes(dtype: torch.dtype) -> None:
    x = make_views(6, 8, dtype)
    result = evaluate(sslkern.barlow_twins_loss, x)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["loss"].shape == ()
    for name, z in x._asdict().items():
        assert result[name].dtype == z.dtype
        assert result[name].shape == z.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_terms_are_those_of_the_reference(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = make_views(*size, dtype)
    z_a = x.z_a.clone().requires_grad_()
    loss, parts = sslkern.barlow_twins_loss(z_a, x.z_b, 0.3, scale=0.5, return_terms=True)
    wide = (z.double() for z in x)
    exact, expected = reference.barlow_twins_loss(*wide, 0.3, scale=0.5, return_terms=True)
    assert type(parts) is type(expected)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    for got, term in zip((loss, *parts), (exact, *expected), strict=True):
        torch.testing.assert_close(got.detach(), term, rtol=rtol, atol=0, check_dtype=False)
        assert got.dtype == loss.dtype
    assert loss.requires_grad
    assert not any(term.requires_grad for term in parts)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("route", ROUTES)
def test_gradient_scales_with_upstream(route: str, factor: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_views(40, 50, torch.float32)
    expected = evaluate(loss_by(route), x)
    scaled = evaluate(loss_by(route), x, factor=factor)
    for name in LEAVES:
        atol = 1e-6 * float(expected[name].abs().max())
        torch.testing.assert_close(scaled[name] / factor, expected[name], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("route", ROUTES)
def test_float16_gradient_is_rounded_after_the_upstream_factor(route: str) -> None:
    """What a gradient scaler is for: without its factor they are below the smallest float16."""
    x = make_views(60, 50, torch.float16)
    x = Views(*(32.0 * z for z in x))
    small = {"factor": 2.0**-22}
    assert all(evaluate(loss_by(route), x, **small)[name].abs().max() == 0 for name in LEAVES)
    assert_like_reference(x, route, factor=2.0**10)


@in_memory_layouts
@pytest.mark.parametrize("route", ROUTES)
def test_views_of_memory_give_the_same_numbers(
    route: str, view: Callable[[Tensor], Tensor]
) -> None:
    x = make_views(41, 19, torch.float32)
    expected = evaluate(loss_by(route), x)
    leaves = [view(z).detach().requires_grad_() for z in x]
    loss = loss_by(route)(*leaves)
    loss.backward()
    assert torch.equal(loss, expected["loss"])
    for name, leaf in zip(LEAVES, leaves, strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[name])


# ---- what is kept


class OutputSizes(TorchDispatchMode):
    """The elements in each output of the forward operator."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.name() == "sslkern::cross_correlation_fwd":
            self.sizes = [t.numel() for t in result]
        return result


@pytest.mark.parametrize("size", [(5, 4000), (4000, 5)])
def test_only_products_of_the_shorter_side_are_kept(size: tuple[int, int]) -> None:
    """And none where no gradient is wanted."""
    x = make_views(*size, torch.float32)
    with OutputSizes() as outputs:
        sslkern.barlow_twins_loss(*x)
    assert outputs.sizes == [1, 3, 5 * size[1], 0]
    x.z_b.requires_grad_()
    with OutputSizes() as outputs:
        sslkern.barlow_twins_loss(*x)
    assert 0 < outputs.sizes[3] < 4000 * 5 * 2
    with torch.no_grad(), OutputSizes() as outputs:
        sslkern.barlow_twins_loss(*x)
    assert outputs.sizes[3] == 0


def test_operator_refuses_a_gradient_for_which_nothing_is_kept() -> None:
    x = make_views(6, 5, torch.float32)
    with pytest.raises(ValueError, match=r"^sslkern::cross_correlation: expected keep to be True"):
        OPS.cross_correlation_fwd(x.z_a.requires_grad_(), x.z_b, 5e-3, 1e-5, "auto", False)


def test_changing_a_view_before_backward_is_an_error() -> None:
    x = make_views(6, 5, torch.float32)
    z_b = x.z_b.clone()
    loss = sslkern.barlow_twins_loss(x.z_a.requires_grad_(), z_b)
    z_b.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(40, 300), (300, 40)])
def test_no_grad_gives_the_same_loss(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = make_views(*size, dtype)
    with_grad = sslkern.barlow_twins_loss(x.z_a.requires_grad_(), x.z_b)
    with torch.no_grad():
        loss = sslkern.barlow_twins_loss(*x)
    assert with_grad.requires_grad
    assert not loss.requires_grad
    assert torch.equal(loss, with_grad.detach())


def test_backward_twice_gives_the_same() -> None:
    x = make_views(20, 40, torch.float32)
    z_a = x.z_a.requires_grad_()
    loss = sslkern.barlow_twins_loss(z_a, x.z_b)
    (first,) = torch.autograd.grad(loss, z_a, retain_graph=True)
    (second,) = torch.autograd.grad(loss, z_a)
    assert torch.equal(first, second)


# ---- designed inputs

# Columns of mean 0 and biased variance 1, orthogonal to each other.
H = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
SHRINK = 1 / (1 + 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
def test_orthogonal_columns_match_closed_form(route: str, dtype: torch.dtype) -> None:
    """C is the identity, or minus it, up to eps."""
    z = H.to(dtype)
    rel = 1e-9 if dtype == torch.float64 else 1e-5
    same = loss_by(route)(z, z, 0.0051).item()
    assert same == pytest.approx(3 * (1 - SHRINK) ** 2, rel=rel, abs=1e-14)
    opposite = loss_by(route)(z, -z, 0.0051).item()
    assert opposite == pytest.approx(3 * (1 + SHRINK) ** 2, rel=rel)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [2, 3, 40])
@pytest.mark.parametrize("route", ROUTES)
def test_equal_columns_match_closed_form(route: str, dims: int, dtype: torch.dtype) -> None:
    """Every element of C is 1 up to eps."""
    z = H[:, :1].repeat(1, dims).to(dtype)
    expected = dims * (1 - SHRINK) ** 2 + 0.0051 * dims * (dims - 1) * SHRINK**2
    assert loss_by(route)(z, z, 0.0051).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
def test_constant_columns_count_as_zeros(route: str, dtype: torch.dtype) -> None:
    """Each costs 1 on the diagonal, and has no gradient."""
    x = make_views(64, 20, dtype)
    for z in x:
        z[:, 3:7] = 2.5
    result = evaluate(loss_by(route), x)
    others = Views(*(torch.cat([z[:, :3], z[:, 7:]], 1) for z in x))
    expected = evaluate(loss_by(route), others)["loss"].item() + 4
    assert result["loss"].item() == pytest.approx(expected, rel=1e-6)
    for name in LEAVES:
        assert result[name].isfinite().all()
        assert result[name][:, 3:7].abs().max() == 0
    assert_like_reference(x, route)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
def test_collapsed_views_lose_the_diagonal(route: str, dtype: torch.dtype) -> None:
    z = torch.full((8, 12), 0.75, dtype=dtype)
    result = evaluate(loss_by(route), Views(z, z))
    assert result["loss"].item() == 12
    assert all(result[name].abs().max() == 0 for name in LEAVES)


def orthogonal_views(n: int, d: int, noise: float, dtype: torch.dtype) -> Views:
    """Columns that correlate with nothing but their twins, up to ``noise``."""
    g = torch.Generator().manual_seed(3)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    q = torch.linalg.qr(z - z.mean(0)).Q * n**0.5
    pair = (q + noise * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
    return Views(*(z.to(dtype) for z in pair))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("noise", [0.3, 0.03, 0.003])
@pytest.mark.parametrize("weight", [0.005, 1.0])
@pytest.mark.parametrize("route", ROUTES)
def test_keeps_digits_where_the_sums_nearly_cancel(
    route: str, weight: float, noise: float, dtype: torch.dtype
) -> None:
    """With products of rows the rest is a small difference: they are taken in float64 then."""
    x = orthogonal_views(200, 60, noise, dtype)
    assert_like_reference(x, route, weight)
    wide = OPS.cross_correlation_fwd(*x, weight, 1e-5, route, False)[1][2].item()
    nearly = float(reference.barlow_twins_loss(*(z.double() for z in x), weight))
    expected = 16 * nearly < weight * diagonal_of(Views(*(z.double() for z in x)))
    assert wide == (expected and route == "gram")


@pytest.mark.not_emulated
def test_keeps_digits_with_more_rows_than_are_taken_at_once() -> None:
    """Of products in float64 only some exist at a time."""
    assert_like_reference(orthogonal_views(1500, 3, 0.003, torch.float32), "gram", 1.0)


@pytest.mark.parametrize(
    ("dtype", "shift"), [(torch.float64, 1e2), (torch.float32, 1e2), (torch.float32, 1e4)]
)
@pytest.mark.parametrize("route", ROUTES)
def test_large_means_cost_no_digits(route: str, shift: float, dtype: torch.dtype) -> None:
    x = make_views(50, 40, dtype)
    assert_like_reference(Views(x.z_a + shift, x.z_b - shift), route)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-2, 1e3])
@pytest.mark.parametrize("route", ROUTES)
def test_columns_of_any_size(route: str, size: float, dtype: torch.dtype) -> None:
    x = make_views(50, 40, torch.float64)
    assert_like_reference(Views(*((size * z).to(dtype) for z in x)), route)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("route", ROUTES)
def test_one_bad_value_makes_the_loss_nan(route: str, bad: float, dtype: torch.dtype) -> None:
    x = make_views(40, 50, dtype)
    x.z_b[17, 3] = bad
    result = evaluate(loss_by(route), x)
    assert result["loss"].isnan()
    assert result["z_b"][:, 3].isnan().all()
    assert result["z_a"][:, 3].isnan().all()


# ---- properties


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_views_may_be_swapped(size: tuple[int, int]) -> None:
    x = make_views(*size, torch.float64)
    one = evaluate(sslkern.barlow_twins_loss, x)
    other = evaluate(sslkern.barlow_twins_loss, Views(x.z_b, x.z_a))
    for name, mirrored in (("loss", "loss"), ("z_a", "z_b"), ("z_b", "z_a")):
        torch.testing.assert_close(other[mirrored], one[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_permuting_samples_or_columns_permutes_the_gradient(size: tuple[int, int]) -> None:
    x = make_views(*size, torch.float64)
    g = torch.Generator().manual_seed(1)
    rows, columns = (torch.randperm(k, generator=g) for k in size)
    expected = evaluate(sslkern.barlow_twins_loss, x)
    permuted = Views(*(z[rows][:, columns] for z in x))
    actual = evaluate(sslkern.barlow_twins_loss, permuted)
    torch.testing.assert_close(actual["loss"], expected["loss"], rtol=1e-12, atol=0)
    for name in LEAVES:
        moved = expected[name][rows][:, columns]
        torch.testing.assert_close(actual[name], moved, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_affine_maps_of_columns_change_nothing(size: tuple[int, int]) -> None:
    """Up to eps."""
    x = make_views(*size, torch.float64)
    loss = sslkern.barlow_twins_loss(*x, eps=1e-14)
    mapped = sslkern.barlow_twins_loss(2 * x.z_a + 4, 0.5 * x.z_b - 3, eps=1e-14)
    torch.testing.assert_close(mapped, loss, rtol=1e-10, atol=0)


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_move_neither_means_nor_much_of_the_variances(route: str) -> None:
    """What standardisation leaves of them."""
    x = make_views(50, 40, torch.float64)
    result = evaluate(loss_by(route), x, 0.1, eps=1e-14)
    for name, z in x._asdict().items():
        grad = result[name]
        assert grad.sum(0).abs().max() < 1e-12
        assert (grad * (z - z.mean(0))).sum(0).abs().max() < 1e-10


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "route"), [(150, 900, "auto"), (900, 150, "auto"), (900, 150, "gram")]
)
def test_bitwise_the_same_for_any_thread_count(
    n: int, d: int, route: str, dtype: torch.dtype
) -> None:
    x = make_views(n, d, dtype)
    torch.set_num_threads(1)
    expected = evaluate(loss_by(route), x)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(loss_by(route), x)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_inputs_are_left_alone() -> None:
    x = make_views(30, 7, torch.float32)
    before = [z.clone() for z in x]
    sslkern.barlow_twins_loss(*(z.requires_grad_() for z in x)).backward()
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


# ---- errors

Z = torch.randn(4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_a": Z[0]}, ValueError, r"z_a to be .* got shape \(5,\)"),
        ({"z_a": Z[:1], "z_b": Z[:1]}, ValueError, r"z_a to be of at least two rows.* got 1"),
        ({"z_a": Z[:0], "z_b": Z[:0]}, ValueError, r"z_a to be .* got shape \(0, 5\)"),
        ({"z_a": Z[:, :0], "z_b": Z[:, :0]}, ValueError, r"z_a to be .* got shape \(4, 0\)"),
        ({"z_b": Z[:3]}, ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got .*\(3, 5\)"),
        ({"z_b": Z[:, :4]}, ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got"),
        ({"z_b": Z[0]}, ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got"),
        ({"z_b": Z.double()}, TypeError, r"z_b to be .* got torch.float64"),
        ({"z_a": Z.long()}, TypeError, r"z_a to be .* got torch.int64"),
        ({"z_a": Z + 0j}, TypeError, r"z_a to be .* got torch.complex64"),
        ({"z_a": Z.to_sparse()}, TypeError, r"z_a to be .* got layout Sparse"),
        ({"z_b": Z.to_sparse()}, TypeError, r"z_b to be .* got layout Sparse"),
        ({"z_a": [1.0]}, TypeError, r"z_a to be a tensor, got list"),
        ({"z_b": None}, TypeError, r"z_b to be a tensor, got NoneType"),
        ({"lambda_param": math.nan}, ValueError, r"lambda_param to be finite, got nan"),
        ({"lambda_param": math.inf}, ValueError, r"lambda_param to be finite, got inf"),
        ({"lambda_param": "1"}, TypeError, r"lambda_param to be a number, got str"),
        ({"lambda_param": True}, TypeError, r"lambda_param to be a number, got bool"),
        ({"eps": 0.0}, ValueError, r"eps to be positive and finite, got 0"),
        ({"eps": -1e-5}, ValueError, r"eps to be positive and finite, got -1e-05"),
        ({"eps": math.nan}, ValueError, r"eps to be positive and finite, got nan"),
        ({"eps": None}, TypeError, r"eps to be a number, got NoneType"),
        ({"scale": math.inf}, ValueError, r"scale to be finite, got inf"),
        ({"scale": "1"}, TypeError, r"scale to be a number, got str"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::cross_correlation: expected " + message):
        sslkern.barlow_twins_loss(**{"z_a": Z, "z_b": Z, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan, 1e-5, "auto"), "lambda_param to be finite, got nan"),
        ((5e-3, 0.0, "auto"), "eps to be positive and finite, got 0"),
        ((5e-3, 1e-5, "fast"), "route to be 'auto', 'gram' or 'direct', got 'fast'"),
    ],
)
def test_operator_refuses_bad_numbers(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=r"^sslkern::cross_correlation: expected " + message):
        OPS.cross_correlation_fwd(Z, Z, *arguments, False)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.ones(2), r"grad_loss to be one number, got shape \(2,\)"),
        (6, torch.zeros(2), r"terms to be of shape \(3,\)"),
        (7, torch.zeros(4, 5), r"columns to be of shape \(5, D\)"),
        (8, torch.zeros(7), r"products to be of \d+ elements.* got 7"),
    ],
)
def test_operator_refuses_what_the_forward_pass_did_not_keep(
    position: int, value: Tensor, message: str
) -> None:
    _, *saved = OPS.cross_correlation_fwd(Z, Z, 5e-3, 1e-5, "auto", True)
    arguments = [torch.tensor(1.0), Z, Z, 5e-3, 1e-5, "auto", *saved, True, True]
    arguments[position] = value
    with pytest.raises(ValueError, match=r"^sslkern::cross_correlation: expected " + message):
        OPS.cross_correlation_bwd(*arguments)


@pytest.mark.parametrize("leaf", LEAVES)
def test_second_derivative_is_refused(leaf: str) -> None:
    inputs = {"z_a": Z.clone(), "z_b": Z.clone() + 1}
    inputs[leaf].requires_grad_()
    loss = sslkern.barlow_twins_loss(**inputs)
    (grad,) = torch.autograd.grad(loss, inputs[leaf], create_graph=True)
    with pytest.raises(
        NotImplementedError, match="sslkern::cross_correlation: expected the gradient"
    ):
        grad.square().sum().backward()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lambda_param": math.nan}, ValueError, "lambda_param to be finite"),
        ({"eps": 0.0}, ValueError, "eps to be positive"),
        ({"scale": None}, TypeError, "scale to be a number"),
    ],
)
def test_module_refuses_bad_settings(
    options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BarlowTwinsLoss(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    x = make_views(7, 8, torch.float32)
    assert torch.equal(BarlowTwinsLoss()(*x), sslkern.barlow_twins_loss(*x))
    module = BarlowTwinsLoss(0.1, eps=1e-3, scale=0.025)
    expected = sslkern.barlow_twins_loss(*x, 0.1, eps=1e-3, scale=0.025)
    assert torch.equal(module(*x), expected)
    assert repr(module) == "BarlowTwinsLoss(lambda_param=0.1, eps=0.001, scale=0.025)"


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
def test_opcheck(route: str, dtype: torch.dtype) -> None:
    x = make_views(6, 5, dtype)
    arguments = (5e-3, 1e-5, route)
    _, *saved = OPS.cross_correlation_fwd(*x, *arguments, True)
    grad = torch.ones((), dtype=torch.promote_types(dtype, torch.float32))
    for need in ((True, True), (False, True)):
        backward = (grad, *x, *arguments, *saved, *need)
        torch.library.opcheck(OPS.cross_correlation_bwd, backward)
    torch.library.opcheck(OPS.cross_correlation_fwd, (*x, *arguments, False))
    leaves = [z.clone().requires_grad_() for z in x]
    torch.library.opcheck(OPS.cross_correlation_fwd, (*leaves, *arguments, True))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("frozen", [(), LEAVES[:1], LEAVES])
def test_compiles_without_graph_break(frozen: tuple[str, ...], dynamic: bool) -> None:
    torch._dynamo.reset()

    def training_loss(z_a: Tensor, z_b: Tensor, offset: Tensor) -> Tensor:
        return sslkern.barlow_twins_loss(z_a, z_b, 0.1, scale=0.5) + offset

    compiled = torch.compile(training_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    offset = torch.ones((), requires_grad=True)
    for size in ((6, 5), (9, 5), (5, 9)):
        x = make_views(*size, torch.float32)
        expected = evaluate(training_loss, x, offset, frozen=frozen)
        actual = evaluate(compiled, x, offset, frozen=frozen)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_terms() -> None:
    torch._dynamo.reset()
    x = make_views(6, 5, torch.float32)
    compiled = torch.compile(sslkern.barlow_twins_loss, backend="aot_eager", fullgraph=True)
    loss, parts = compiled(*x, return_terms=True)
    expected, parts_expected = sslkern.barlow_twins_loss(*x, return_terms=True)
    assert torch.equal(loss, expected)
    assert all(torch.equal(a, b) for a, b in zip(parts, parts_expected, strict=True))


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_views(6, 5, torch.float32)

    def training_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        return sslkern.barlow_twins_loss(z_a.relu(), z_b * 2) + 1

    z_a = x.z_a.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(z_a, x.z_b).backward()
    expected = x.z_a.clone().requires_grad_()
    training_loss(expected, x.z_b).backward()
    torch.testing.assert_close(z_a.grad, expected.grad)


@pytest.mark.parametrize("widest", LEAVES)
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    x = make_views(6, 5, torch.bfloat16)
    mixed = x._replace(**{widest: getattr(x, widest).float()})
    with autocast():
        loss = sslkern.barlow_twins_loss(*mixed)
    wide = sslkern.barlow_twins_loss(*(z.float() for z in x))
    torch.testing.assert_close(loss, wide, rtol=1e-6, atol=0)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.barlow_twins_loss(z[:3], z[3:].float())
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().max() > 0


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.barlow_twins_loss(Z, Z).isfinite()
