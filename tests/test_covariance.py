"""VICReg and its terms against their definitions, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

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
from sslkern.losses import VICRegLoss
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
VARIANTS = ["official", "solo", "vibcreg"]
LEAVES = ("z_a", "z_b")

OPS = torch.ops.sslkern
Options = dict[str, Any]
Views = dict[str, Tensor]


def make_view(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Views:
    """Columns that covary, of different means and of deviations around 1."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    mixed = z + 0.3 * torch.randn(n, 1, generator=g, dtype=torch.float64)
    spread = torch.rand(d, generator=g, dtype=torch.float64) + 0.5
    shift = torch.randn(d, generator=g, dtype=torch.float64)
    return {"z": (mixed * spread + shift).to(dtype)}


def make_views(n: int, d: int, dtype: torch.dtype) -> Views:
    """Two such, which resemble each other."""
    z_a, noise = (make_view(n, d, torch.float64, seed)["z"] for seed in (0, 1))
    return {"z_a": z_a.to(dtype), "z_b": (0.7 * z_a + 0.5 * noise).to(dtype)}


def by_route(function: str, route: str) -> Callable[..., Any]:
    """The function, or its operator made to take one kind of products."""
    if route == "auto":
        return getattr(sslkern, function)  # type: ignore[no-any-return]

    def vicreg(z_a: Tensor, z_b: Tensor, *weights: float, variant: str = "official") -> Any:
        lambda_, mu, nu = weights or (25.0, 25.0, 1.0)
        options = (1e-4, variant == "vibcreg", True, route, True)
        mu *= 0.5 if variant == "official" else 1.0
        return OPS.covariance_fwd(z_a, z_b, lambda_, mu, nu, *options)[0]

    def covariance(z: Tensor, normalize_columns: bool = False) -> Any:
        options = (1e-4, normalize_columns, True, route, True)
        return OPS.covariance_fwd(z, None, 0.0, 0.0, 1.0, *options)[0]

    return {"vicreg_loss": vicreg, "covariance_loss": covariance}[function]


def evaluate(
    function: Callable[..., Any],
    x: Views,
    *arguments: object,
    frozen: tuple[str, ...] = (),
    factor: float = 1.0,
    **options: object,
) -> dict[str, Tensor]:
    """The loss and the gradients of ``factor`` times it but those of what is ``frozen``."""
    leaves = {k: z.clone().requires_grad_(k not in frozen) for k, z in x.items()}
    loss = function(*leaves.values(), *arguments, **options)
    (factor * loss).backward()
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen), name
    grads = {name: z.grad for name, z in leaves.items() if z.grad is not None}
    return {"loss": loss.detach()} | grads


def assert_like_reference(
    function: str,
    x: Views,
    *arguments: float,
    route: str = "auto",
    own: float = 0.0,
    normalize: bool = False,
    **options: Any,
) -> None:
    """The accuracy rule for the loss and the gradients.

    Errors of the gradients are relative to the part in them that the products of rows have of
    every column with itself, where these weigh ``own``. In float64 so is the loss: nothing is
    wider.
    """
    wide = {name: z.double() for name, z in x.items()}
    dtype = next(iter(x.values())).dtype
    definition = getattr(reference, function)
    actual = evaluate(by_route(function, route), x, *arguments, **options)
    eager = evaluate(definition, x, *arguments, **options)
    exact = evaluate(definition, wide, *arguments, **options)
    sizes = terms.columns(terms.Case(wide, 1, False, "", 1.0, 1.0), normalize).sizes
    for name, expected in exact.items():
        size = max(float(expected.abs().max()), own * options.get("factor", 1.0) * sizes[name])
        if name == "loss" and dtype == torch.float64:
            size += own * sum(squares_of_norms(z, normalize) for z in wide.values())
        what = f"{function} {name}, {route}, {dtype}, {tuple(expected.shape)}, {arguments}"
        assert_accurate(actual[name], eager[name], expected, what, scale=size)


def squares_of_norms(z: Tensor, normalize: bool = False) -> float:
    """What the covariance leaves out."""
    if normalize:
        return 1 / z.shape[1]
    return float(z.var(0).square().mean())


# ---- the reference itself


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_passes_gradcheck(variant: str) -> None:
    inputs = [z.requires_grad_() for z in make_views(5, 4, torch.float64).values()]
    assert torch.autograd.gradcheck(
        lambda a, b: reference.vicreg_loss(a, b, 2.0, 3.0, 0.7, eps=1e-2, variant=variant), inputs
    )


def test_reference_is_the_sum_of_squared_covariances() -> None:
    (z,) = make_view(9, 6, torch.float64).values()
    covariance = torch.cov(z.T)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    torch.testing.assert_close(reference.covariance_loss(z), off / 6, rtol=1e-12, atol=0)
    correlation = torch.corrcoef(z.T)
    off = correlation.square().sum() - 6
    actual = reference.covariance_loss(z, normalize_columns=True)
    torch.testing.assert_close(actual, off / 36, rtol=1e-11, atol=0)


def solo_learn(z_a: Tensor, z_b: Tensor, weights: tuple[float, ...]) -> Tensor:
    """VICReg as solo-learn writes it."""
    n, d = z_a.shape
    std = [torch.sqrt(z.var(dim=0) + 1e-4) for z in (z_a, z_b)]
    variance = sum(torch.mean(F.relu(1 - s)) for s in std)
    off = []
    for z in (z_a, z_b):
        centered = z - z.mean(dim=0)
        cov = (centered.T @ centered) / (n - 1)
        diag = torch.eye(d, dtype=torch.float64)
        off.append(cov[~diag.bool()].pow_(2).sum() / d)
    return weights[0] * F.mse_loss(z_a, z_b) + weights[1] * variance + weights[2] * sum(off)


def vibcreg(z_a: Tensor, z_b: Tensor, weights: tuple[float, ...]) -> Tensor:
    """VIbCReg as solo-learn writes it."""
    variance = sum(torch.mean(F.relu(1 - torch.sqrt(z.var(0) + 1e-4))) for z in (z_a, z_b))
    means = []
    for z in (z_a, z_b):
        unit = F.normalize(z - z.mean(dim=0), p=2, dim=0)
        product = unit.T @ unit
        means.append((product - torch.diag(product.diagonal())).square().mean())
    return weights[0] * F.mse_loss(z_a, z_b) + weights[1] * variance + weights[2] * sum(means)


@pytest.mark.parametrize("size", [(9, 6), (7, 20)])
def test_variants_are_those_of_solo_learn(size: tuple[int, int]) -> None:
    z_a, z_b = make_views(*size, torch.float64).values()
    weights = (2.0, 3.0, 0.7)
    for variant, theirs in (("solo", solo_learn), ("vibcreg", vibcreg)):
        expected = theirs(z_a, z_b, weights)
        for loss in (sslkern.vicreg_loss, reference.vicreg_loss):
            actual = loss(z_a, z_b, *weights, variant=variant)
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ROUTES)
def test_matches_reference(route: str, variant: str, n: int, d: int, dtype: torch.dtype) -> None:
    x = make_views(n, d, dtype)
    normalize = variant == "vibcreg"
    assert_like_reference(
        "vicreg_loss", x, route=route, own=1.0, normalize=normalize, variant=variant
    )


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_covariance_matches_reference(
    route: str, normalize: bool, n: int, d: int, dtype: torch.dtype
) -> None:
    x = make_view(n, d, dtype)
    options: Options = {"own": 1.0, "normalize": normalize, "normalize_columns": normalize}
    assert_like_reference("covariance_loss", x, route=route, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_variance_matches_reference(spread: float, n: int, d: int, dtype: torch.dtype) -> None:
    z = (spread * make_view(n, d, torch.float64)["z"]).to(dtype)
    assert_like_reference("variance_loss", {"z": z})
    assert_like_reference("variance_loss", {"z": z}, eps=0.3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_invariance_matches_reference(dtype: torch.dtype) -> None:
    assert_like_reference("invariance_loss", make_views(40, 33, dtype))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(300, 2100), (2100, 300)])
def test_matches_reference_in_several_slabs(n: int, d: int, dtype: torch.dtype) -> None:
    """The inner dimension of the products is packed a part at a time, here in two."""
    assert_like_reference("vicreg_loss", make_views(n, d, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-2.0, 100.0, 0.04)]
)
@pytest.mark.parametrize("route", ROUTES)
def test_matches_reference_for_any_weights(
    route: str, weights: tuple[float, ...], dtype: torch.dtype
) -> None:
    x = make_views(40, 60, dtype)
    assert_like_reference("vicreg_loss", x, *weights, route=route, own=abs(weights[2]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frozen", [("z_a",), ("z_b",)])
@pytest.mark.parametrize("route", ROUTES)
def test_either_view_may_be_frozen(route: str, frozen: tuple[str, ...], dtype: torch.dtype) -> None:
    assert_like_reference("vicreg_loss", make_views(70, 110, dtype), route=route, frozen=frozen)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ["gram", "direct"])
def test_passes_gradcheck(route: str, variant: str) -> None:
    inputs = [z.requires_grad_() for z in make_views(5, 6, torch.float64).values()]
    loss = partial(by_route("vicreg_loss", route), variant=variant)
    assert passes_gradcheck(lambda a, b: loss(a, b, 2.0, 3.0, 0.7), inputs)


def test_terms_alone_pass_gradcheck() -> None:
    z = (0.8 * make_view(5, 4, torch.float64)["z"]).requires_grad_()
    assert passes_gradcheck(partial(sslkern.variance_loss, eps=0.01), (z,))
    for normalize in (False, True):
        covariance = partial(sslkern.covariance_loss, normalize_columns=normalize)
        assert passes_gradcheck(covariance, (z,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_terms_are_those_of_the_reference(
    size: tuple[int, int], variant: str, dtype: torch.dtype
) -> None:
    x = make_views(*size, dtype)
    options: Options = {"variant": variant, "return_terms": True}
    z_a = x["z_a"].clone().requires_grad_()
    loss, parts = sslkern.vicreg_loss(z_a, x["z_b"], 2.0, 3.0, 0.0, **options)
    wide = (z.double() for z in x.values())
    exact, expected = reference.vicreg_loss(*wide, 2.0, 3.0, 0.0, **options)
    assert type(parts) is type(expected)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    for got, term in zip((loss, *parts), (exact, *expected), strict=True):
        torch.testing.assert_close(got.detach(), term, rtol=rtol, atol=0, check_dtype=False)
        assert got.dtype == loss.dtype
    assert loss.requires_grad
    assert not any(term.requires_grad for term in parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_alone_add_up_to_the_loss(dtype: torch.dtype) -> None:
    z_a, z_b = make_views(30, 50, dtype).values()
    _, parts = sslkern.vicreg_loss(z_a, z_b, return_terms=True)
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    variance = (sslkern.variance_loss(z_a) + sslkern.variance_loss(z_b)) / 2
    covariance = sslkern.covariance_loss(z_a) + sslkern.covariance_loss(z_b)
    alone = (sslkern.invariance_loss(z_a, z_b), variance, covariance)
    for got, expected in zip(parts, alone, strict=True):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes_and_shapes(dtype: torch.dtype) -> None:
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    for function, x in (
        (sslkern.vicreg_loss, make_views(6, 8, dtype)),
        (sslkern.invariance_loss, make_views(6, 8, dtype)),
        (sslkern.variance_loss, make_view(6, 8, dtype)),
        (sslkern.covariance_loss, make_view(6, 8, dtype)),
    ):
        result = evaluate(function, x)
        assert result["loss"].dtype == accumulate
        assert result["loss"].shape == ()
        for name, z in x.items():
            assert result[name].dtype == z.dtype
            assert result[name].shape == z.shape


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("route", ROUTES)
def test_gradient_scales_with_upstream(route: str, factor: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_views(40, 50, torch.float32)
    expected = evaluate(by_route("vicreg_loss", route), x)
    scaled = evaluate(by_route("vicreg_loss", route), x, factor=factor)
    for name in LEAVES:
        atol = 1e-6 * float(expected[name].abs().max())
        torch.testing.assert_close(scaled[name] / factor, expected[name], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("route", ROUTES)
def test_float16_gradient_is_rounded_after_the_upstream_factor(route: str) -> None:
    """What a gradient scaler is for: without its factor they are below the smallest float16."""
    x = make_views(60, 50, torch.float16)
    lost = evaluate(by_route("vicreg_loss", route), x, factor=2.0**-26)
    assert all(lost[name].abs().max() == 0 for name in LEAVES)
    assert_like_reference("vicreg_loss", x, route=route, factor=2.0**10)


@in_memory_layouts
@pytest.mark.parametrize("route", ROUTES)
def test_views_of_memory_give_the_same_numbers(
    route: str, view: Callable[[Tensor], Tensor]
) -> None:
    x = make_views(41, 19, torch.float32)
    expected = evaluate(by_route("vicreg_loss", route), x)
    leaves = [view(z).detach().requires_grad_() for z in x.values()]
    loss = by_route("vicreg_loss", route)(*leaves)
    loss.backward()
    assert torch.equal(loss, expected["loss"])
    for name, leaf in zip(LEAVES, leaves, strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[name])


# ---- what is kept


class OutputSizes(TorchDispatchMode):
    """The elements in each output of the forward operator, by call."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[list[int]] = []

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.name() == "sslkern::covariance_fwd":
            self.sizes.append([t.numel() for t in result])
        return result


@pytest.mark.parametrize("size", [(5, 4000), (4000, 5)])
def test_only_products_of_the_shorter_side_are_kept(size: tuple[int, int]) -> None:
    """In one call for both views, and none where no gradient is wanted."""
    x = make_views(*size, torch.float32)
    with OutputSizes() as outputs:
        sslkern.vicreg_loss(*x.values())
    assert outputs.sizes == [[1, 4, 6 * size[1], 0]]
    x["z_b"].requires_grad_()
    with OutputSizes() as outputs:
        sslkern.vicreg_loss(*x.values())
    assert len(outputs.sizes) == 1
    assert 0 < outputs.sizes[0][3] < 4000 * 5 * 2
    with torch.no_grad(), OutputSizes() as outputs:
        sslkern.vicreg_loss(*x.values())
    assert outputs.sizes[0][3] == 0


def test_products_are_not_taken_without_the_covariance() -> None:
    x = make_views(6, 50, torch.float32)
    z_a, z_b = (z.requires_grad_() for z in x.values())
    with OutputSizes() as outputs:
        sslkern.variance_loss(z_a)
        sslkern.vicreg_loss(z_a, z_b, nu_param=0.0)
        sslkern.covariance_loss(z_a)
    assert [sizes[3] > 0 for sizes in outputs.sizes] == [False, False, True]


def test_operator_refuses_a_gradient_for_which_nothing_is_kept() -> None:
    z = make_view(6, 5, torch.float32)["z"].requires_grad_()
    with pytest.raises(ValueError, match=r"^sslkern::covariance: expected keep to be True"):
        OPS.covariance_fwd(z, None, 0.0, 1.0, 1.0, 1e-4, False, True, "auto", False)


def test_changing_a_view_before_backward_is_an_error() -> None:
    x = make_views(6, 5, torch.float32)
    z_b = x["z_b"].clone()
    loss = sslkern.vicreg_loss(x["z_a"].requires_grad_(), z_b)
    z_b.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(40, 300), (300, 40)])
def test_no_grad_gives_the_same_loss(size: tuple[int, int], dtype: torch.dtype) -> None:
    z_a, z_b = make_views(*size, dtype).values()
    with_grad = sslkern.vicreg_loss(z_a.requires_grad_(), z_b)
    with torch.no_grad():
        loss = sslkern.vicreg_loss(z_a, z_b)
    assert with_grad.requires_grad
    assert not loss.requires_grad
    assert torch.equal(loss, with_grad.detach())


def test_backward_twice_gives_the_same() -> None:
    z_a, z_b = make_views(20, 40, torch.float32).values()
    loss = sslkern.vicreg_loss(z_a.requires_grad_(), z_b)
    (first,) = torch.autograd.grad(loss, z_a, retain_graph=True)
    (second,) = torch.autograd.grad(loss, z_a)
    assert torch.equal(first, second)


# ---- designed inputs

# Columns of mean 0, orthogonal to each other, of unbiased variance 4/3.
H = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
def test_orthogonal_columns_cost_nothing(route: str, dtype: torch.dtype) -> None:
    z = H.to(dtype)
    result = evaluate(by_route("vicreg_loss", route), {"z_a": z, "z_b": z})
    assert result["loss"].item() == pytest.approx(0, abs=1e-12)
    assert all(result[name].abs().max() < 1e-6 for name in LEAVES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [2, 3, 40])
@pytest.mark.parametrize("route", ROUTES)
def test_equal_columns_match_closed_form(route: str, dims: int, dtype: torch.dtype) -> None:
    """Every covariance is N / (N - 1), every correlation 1; 7.1111 for three columns."""
    z = H[:, :1].repeat(1, dims).to(dtype)
    loss = by_route("vicreg_loss", route)(z, z)
    assert loss.item() == pytest.approx(2 * (dims - 1) * (4 / 3) ** 2, rel=1e-6)
    loss = by_route("vicreg_loss", route)(z, z, 25.0, 25.0, 200.0, variant="vibcreg")
    assert loss.item() == pytest.approx(200 * 2 * (dims - 1) / dims, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ROUTES)
def test_collapsed_views_lose_the_variance(route: str, variant: str, dtype: torch.dtype) -> None:
    """24.75 with the half, 49.5 without; no direction is better than another."""
    z = torch.full((8, 12), 0.75, dtype=dtype)
    loss = partial(by_route("vicreg_loss", route), variant=variant)
    result = evaluate(loss, {"z_a": z, "z_b": z})
    expected = 24.75 if variant == "official" else 49.5
    assert result["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert all(result[name].abs().max() == 0 for name in LEAVES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ROUTES)
def test_constant_columns_are_finite(route: str, variant: str, dtype: torch.dtype) -> None:
    x = make_views(64, 20, dtype)
    for z in x.values():
        z[:, 3:7] = 2.5
    result = evaluate(partial(by_route("vicreg_loss", route), variant=variant), x)
    assert result["loss"].isfinite()
    for name in LEAVES:
        assert result[name].isfinite().all()
        assert result[name][:, 3:7].abs().max() == 0
    assert_like_reference("vicreg_loss", x, route=route, own=1.0, variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_views_have_no_invariance(dtype: torch.dtype) -> None:
    (z,) = make_view(30, 20, dtype).values()
    result = evaluate(sslkern.vicreg_loss, {"z_a": z, "z_b": z}, 25.0, 0.0, 0.0)
    assert result["loss"] == 0
    assert all(result[name].abs().max() == 0 for name in LEAVES)


def orthogonal_columns(n: int, d: int, noise: float) -> Tensor:
    """Columns of variance about 1 whose covariances are about ``noise``."""
    g = torch.Generator().manual_seed(3)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    q = torch.linalg.qr(z - z.mean(0)).Q * n**0.5
    return q + noise * torch.randn(n, d, generator=g, dtype=torch.float64)


def one_large_column(n: int, d: int, size: float) -> Tensor:
    """Its variance is most of the sum of squared covariances."""
    g = torch.Generator().manual_seed(3)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    z[:, 5] *= size
    return z


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "z",
    [
        *(orthogonal_columns(200, 60, noise) for noise in (0.3, 0.03, 0.003)),
        *(one_large_column(60, 200, size) for size in (3.0, 30.0, 300.0)),
    ],
    ids=["noise 0.3", "noise 0.03", "noise 0.003", "column 3", "column 30", "column 300"],
)
def test_keeps_digits_where_the_sums_nearly_cancel(
    z: Tensor, route: str, normalize: bool, dtype: torch.dtype
) -> None:
    """With products of rows the rest is a small difference: they are taken in float64 then."""
    x = {"z": z.to(dtype)}
    assert_like_reference("covariance_loss", x, route=route, normalize_columns=normalize)
    options = (0.0, 0.0, 1.0, 1e-4, normalize, True, route, False)
    wide = OPS.covariance_fwd(x["z"], None, *options)[1][3].item()
    loss = float(reference.covariance_loss(x["z"].double(), normalize_columns=normalize))
    nearly = 16 * loss < squares_of_norms(x["z"].double(), normalize)
    by_rows = route == "gram" or (route == "auto" and z.shape[1] > z.shape[0])
    assert wide == (nearly and by_rows)


@pytest.mark.parametrize(
    ("dtype", "shift"), [(torch.float64, 1e2), (torch.float32, 1e2), (torch.float32, 1e4)]
)
@pytest.mark.parametrize("route", ROUTES)
def test_large_means_cost_no_digits(route: str, shift: float, dtype: torch.dtype) -> None:
    x = {name: z + shift for name, z in make_views(50, 40, dtype).items()}
    assert_like_reference("vicreg_loss", x, route=route, own=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-3, 0.1, 30.0])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ROUTES)
def test_columns_of_any_size(route: str, variant: str, size: float, dtype: torch.dtype) -> None:
    x = {name: (size * z).to(dtype) for name, z in make_views(50, 40, torch.float64).items()}
    normalize = variant == "vibcreg"
    assert_like_reference(
        "vicreg_loss", x, route=route, own=1.0, normalize=normalize, variant=variant
    )


@pytest.mark.parametrize("dtype", DTYPES[1:3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("route", ROUTES)
def test_one_bad_value_makes_the_loss_nan(
    route: str, variant: str, bad: float, dtype: torch.dtype
) -> None:
    x = make_views(40, 50, dtype)
    x["z_b"][17, 3] = bad
    result = evaluate(partial(by_route("vicreg_loss", route), variant=variant), x)
    assert result["loss"].isnan()
    assert result["z_b"][:, 3].isnan().all()
    for weights in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        assert sslkern.vicreg_loss(*x.values(), *weights, variant=variant).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_shows_in_every_term_alone(dtype: torch.dtype) -> None:
    z = make_view(40, 50, dtype)["z"]
    z[17, 3] = math.nan
    for loss in (sslkern.variance_loss(z), sslkern.covariance_loss(z)):
        assert loss.isnan()
    assert sslkern.covariance_loss(z, normalize_columns=True).isnan()
    assert sslkern.invariance_loss(z, z).isnan()


# ---- properties


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_views_may_be_swapped(size: tuple[int, int], variant: str) -> None:
    x = make_views(*size, torch.float64)
    one = evaluate(sslkern.vicreg_loss, x, variant=variant)
    swapped = {"z_a": x["z_b"], "z_b": x["z_a"]}
    other = evaluate(sslkern.vicreg_loss, swapped, variant=variant)
    for name, mirrored in (("loss", "loss"), ("z_a", "z_b"), ("z_b", "z_a")):
        torch.testing.assert_close(other[mirrored], one[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_permuting_samples_or_columns_permutes_the_gradient(
    size: tuple[int, int], variant: str
) -> None:
    x = make_views(*size, torch.float64)
    g = torch.Generator().manual_seed(1)
    rows, columns = (torch.randperm(k, generator=g) for k in size)
    expected = evaluate(sslkern.vicreg_loss, x, variant=variant)
    permuted = {name: z[rows][:, columns] for name, z in x.items()}
    actual = evaluate(sslkern.vicreg_loss, permuted, variant=variant)
    torch.testing.assert_close(actual["loss"], expected["loss"], rtol=1e-12, atol=0)
    for name in LEAVES:
        moved = expected[name][rows][:, columns]
        torch.testing.assert_close(actual[name], moved, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_common_shift_changes_nothing(variant: str) -> None:
    x = make_views(40, 60, torch.float64)
    shift = torch.linspace(-3, 3, 60, dtype=torch.float64)
    loss = sslkern.vicreg_loss(*x.values(), variant=variant)
    moved = sslkern.vicreg_loss(*(z + shift for z in x.values()), variant=variant)
    torch.testing.assert_close(moved, loss, rtol=1e-11, atol=0)


def test_covariance_grows_with_the_fourth_power_and_normalised_not_at_all() -> None:
    z = make_view(40, 60, torch.float64)["z"]
    loss, larger = (sslkern.covariance_loss(x) for x in (z, 3 * z))
    torch.testing.assert_close(larger, 81 * loss, rtol=1e-12, atol=0)
    loss, larger = (sslkern.covariance_loss(x, normalize_columns=True) for x in (z, 3 * z))
    torch.testing.assert_close(larger, loss, rtol=1e-12, atol=0)


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
    expected = evaluate(by_route("vicreg_loss", route), x)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(by_route("vicreg_loss", route), x)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_inputs_are_left_alone() -> None:
    x = make_views(30, 7, torch.float32)
    before = [z.clone() for z in x.values()]
    sslkern.vicreg_loss(*(z.requires_grad_() for z in x.values())).backward()
    assert all(torch.equal(a, b) for a, b in zip(x.values(), before, strict=True))


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
        ({"z_b": Z.double()}, TypeError, r"z_b to be .* got torch.float64"),
        ({"z_a": Z.long()}, TypeError, r"z_a to be .* got torch.int64"),
        ({"z_a": Z + 0j}, TypeError, r"z_a to be .* got torch.complex64"),
        ({"z_a": Z.to_sparse()}, TypeError, r"z_a to be .* got layout Sparse"),
        ({"z_b": Z.to_sparse()}, TypeError, r"z_b to be .* got layout Sparse"),
        ({"z_a": [1.0]}, TypeError, r"z_a to be a tensor, got list"),
        ({"z_b": None}, TypeError, r"z_b to be a tensor, got NoneType"),
        ({"lambda_param": math.nan}, ValueError, r"lambda_param to be finite, got nan"),
        ({"mu_param": math.inf}, ValueError, r"mu_param to be finite, got inf"),
        ({"nu_param": -math.inf}, ValueError, r"nu_param to be finite, got -inf"),
        ({"nu_param": "1"}, TypeError, r"nu_param to be a number, got str"),
        ({"mu_param": True}, TypeError, r"mu_param to be a number, got bool"),
        ({"eps": 0.0}, ValueError, r"eps to be positive and finite, got 0"),
        ({"eps": -1e-5}, ValueError, r"eps to be positive and finite, got -1e-05"),
        ({"eps": math.nan}, ValueError, r"eps to be positive and finite, got nan"),
        ({"eps": None}, TypeError, r"eps to be a number, got NoneType"),
        ({"variant": "paper"}, ValueError, r"variant to be 'official', 'solo' .* got 'paper'"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::covariance: expected " + message):
        sslkern.vicreg_loss(**{"z_a": Z, "z_b": Z, **options})


@pytest.mark.parametrize("function", [sslkern.variance_loss, sslkern.covariance_loss])
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (Z[:1], ValueError, r"z to be of at least two rows.* got 1"),
        (Z[0], ValueError, r"z to be of shape \(N, D\), got shape \(5,\)"),
        (Z.long(), TypeError, r"z to be .* got torch.int64"),
        ([1.0], TypeError, r"z to be a tensor, got list"),
    ],
)
def test_bad_view_is_refused(
    z: Any, error: type[Exception], message: str, function: Callable[..., Tensor]
) -> None:
    with pytest.raises(error, match=r"^sslkern::covariance: expected " + message):
        function(z)


def test_variance_refuses_a_bad_eps() -> None:
    with pytest.raises(ValueError, match="eps to be positive and finite, got 0"):
        sslkern.variance_loss(Z, eps=0.0)


def test_invariance_refuses_views_that_differ() -> None:
    with pytest.raises(ValueError, match=r"z_b to be of the shape of z_a, \(4, 5\), got"):
        sslkern.invariance_loss(Z, Z[:1])
    with pytest.raises(TypeError, match="z_b to be a tensor, got NoneType"):
        sslkern.invariance_loss(Z, None)  # type: ignore[arg-type]


def test_reference_refuses_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="variant to be 'official', 'solo' or 'vibcreg'"):
        reference.vicreg_loss(Z, Z, variant="paper")


@pytest.mark.parametrize(
    ("weights", "eps", "route", "message"),
    [
        ((math.nan, 1.0, 1.0), 1e-4, "auto", "lambda_param to be finite, got nan"),
        ((1.0, math.inf, 1.0), 1e-4, "auto", "mu_param to be finite, got inf"),
        ((1.0, 1.0, math.nan), 1e-4, "auto", "nu_param to be finite, got nan"),
        ((1.0, 1.0, 1.0), 0.0, "auto", "eps to be positive and finite, got 0"),
        ((1.0, 1.0, 1.0), 1e-4, "fast", "route to be 'auto', 'gram' or 'direct', got 'fast'"),
    ],
)
def test_operator_refuses_bad_numbers(
    weights: tuple[float, ...], eps: float, route: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"^sslkern::covariance: expected " + message):
        OPS.covariance_fwd(Z, Z, *weights, eps, False, True, route, False)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.ones(2), r"grad_loss to be one number, got shape \(2,\)"),
        (2, None, r"need_b to be False without z_b, got True"),
        (10, torch.zeros(2), r"terms to be of shape \(4,\)"),
        (11, torch.zeros(4, 5), r"columns to be of shape \(6, D\)"),
        (12, torch.zeros(7), r"products to be of \d+ elements.* got 7"),
    ],
)
def test_operator_refuses_what_the_forward_pass_did_not_keep(
    position: int, value: Tensor | None, message: str
) -> None:
    options = (25.0, 25.0, 1.0, 1e-4, False, True, "auto")
    _, *saved = OPS.covariance_fwd(Z, Z, *options, True)
    arguments = [torch.tensor(1.0), Z, Z, *options, *saved, True, True]
    arguments[position] = value
    with pytest.raises(ValueError, match=r"^sslkern::covariance: expected " + message):
        OPS.covariance_bwd(*arguments)


@pytest.mark.parametrize(
    "function", [sslkern.variance_loss, sslkern.covariance_loss, lambda z: VICRegLoss()(z, Z)]
)
def test_second_derivative_is_refused(function: Callable[..., Tensor]) -> None:
    z = (0.1 * Z).requires_grad_()
    (grad,) = torch.autograd.grad(function(z), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="sslkern::covariance: expected the gradient"):
        grad.square().sum().backward()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lambda_param": math.nan}, ValueError, "lambda_param to be finite"),
        ({"mu_param": None}, TypeError, "mu_param to be a number"),
        ({"nu_param": math.inf}, ValueError, "nu_param to be finite"),
        ({"eps": 0.0}, ValueError, "eps to be positive"),
        ({"variant": ""}, ValueError, "variant to be 'official'"),
    ],
)
def test_module_refuses_bad_settings(
    options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        VICRegLoss(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    x = make_views(7, 8, torch.float32).values()
    assert torch.equal(VICRegLoss()(*x), sslkern.vicreg_loss(*x))
    module = VICRegLoss(1.0, 2.0, 3.0, eps=0.1, variant="vibcreg")
    expected = sslkern.vicreg_loss(*x, 1.0, 2.0, 3.0, eps=0.1, variant="vibcreg")
    assert torch.equal(module(*x), expected)
    weights = "lambda_param=1.0, mu_param=2.0, nu_param=3.0"
    assert repr(module) == f"VICRegLoss({weights}, eps=0.1, variant='vibcreg')"


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("kind", "route", "dtype"),
    [
        *(("two views", "auto", dtype) for dtype in DTYPES),
        *(("two views", route, torch.float32) for route in ROUTES[1:]),
        *((kind, "auto", torch.float32) for kind in ("one view", "normalized", "no covariance")),
    ],
)
def test_opcheck(kind: str, route: str, dtype: torch.dtype) -> None:
    z_a, z_b = make_views(6, 5, dtype).values()
    views = (z_a, None if kind == "one view" else z_b)
    options = (25.0, 25.0, 1.0, 1e-4, kind == "normalized", kind != "no covariance", route)
    _, *saved = OPS.covariance_fwd(*views, *options, True)
    grad = torch.ones((), dtype=torch.promote_types(dtype, torch.float32))
    backward = (grad, *views, *options, *saved, True, kind != "one view")
    torch.library.opcheck(OPS.covariance_bwd, backward)
    torch.library.opcheck(OPS.covariance_fwd, (*views, *options, False))
    leaves = (z if z is None else z.clone().requires_grad_() for z in views)
    torch.library.opcheck(OPS.covariance_fwd, (*leaves, *options, True))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("frozen", [(), LEAVES[:1], LEAVES])
def test_compiles_without_graph_break(frozen: tuple[str, ...], dynamic: bool) -> None:
    torch._dynamo.reset()

    def training_loss(z_a: Tensor, z_b: Tensor, offset: Tensor) -> Tensor:
        terms_alone = sslkern.variance_loss(z_a) + sslkern.covariance_loss(z_b)
        return sslkern.vicreg_loss(z_a, z_b, variant="solo") + terms_alone + offset

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
    x = make_views(6, 5, torch.float32).values()
    compiled = torch.compile(sslkern.vicreg_loss, backend="aot_eager", fullgraph=True)
    loss, parts = compiled(*x, return_terms=True)
    expected, parts_expected = sslkern.vicreg_loss(*x, return_terms=True)
    assert torch.equal(loss, expected)
    assert all(torch.equal(a, b) for a, b in zip(parts, parts_expected, strict=True))


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    z_a, z_b = make_views(6, 5, torch.float32).values()

    def training_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        return sslkern.vicreg_loss(z_a.relu(), z_b * 2) + 1

    leaf = z_a.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(leaf, z_b).backward()
    expected = z_a.clone().requires_grad_()
    training_loss(expected, z_b).backward()
    torch.testing.assert_close(leaf.grad, expected.grad)


@pytest.mark.parametrize("widest", LEAVES)
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    x = make_views(6, 5, torch.bfloat16)
    mixed = x | {widest: x[widest].float()}
    with autocast():
        loss = sslkern.vicreg_loss(**mixed)
        variance = sslkern.variance_loss(mixed["z_a"])
    wide = sslkern.vicreg_loss(*(z.float() for z in x.values()))
    torch.testing.assert_close(loss, wide, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, sslkern.variance_loss(x["z_a"]), rtol=1e-6, atol=0)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.vicreg_loss(z[:3], z[3:].float())
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().max() > 0


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.vicreg_loss(Z, Z).isfinite()
        assert sslkern.variance_loss(Z).isfinite()
        assert sslkern.covariance_loss(Z).isfinite()
