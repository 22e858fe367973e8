"""SigLIP against its definition, `sslkern.reference`, in float64."""

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
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import SigLipLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N around tiles of 96, 192 and 288 and the micro-tiles of 6, 12, 16 and 32; M is as large, or with
# negatives alone the second number; D around vectors, the strip of 32 and the 256 dimensions of a
# pass.
SIZES = [
    (1, 5, 1), (2, 1, 130), (5, 2, 3), (12, 31, 33), (31, 12, 257), (96, 33, 1), (97, 289, 130),
    (289, 97, 3), (300, 100, 32), (7, 600, 64),
]  # fmt: skip

# With "none" every row has an upstream gradient of its own and the gradients are recomputed; with
# "mean" the forward pass forms them.
REDUCTIONS = ["none", "mean"]
LEAVES = ("image_features", "text_features", "logit_scale", "logit_bias")

Options = dict[str, Any]


class Inputs(NamedTuple):
    """Images and texts of unit norm, and one upstream gradient per image."""

    image: Tensor
    text: Tensor
    grad: Tensor


def make_inputs(n: int, m: int, d: int, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Texts that correlate with their images."""
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(n, d, generator=g, dtype=torch.float64)
    noise = torch.randn(m, d, generator=g, dtype=torch.float64)
    text = image[torch.arange(m) % n] + noise
    grad = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return Inputs(F.normalize(image).to(dtype), F.normalize(text).to(dtype), grad)


def evaluate(
    function: Callable[..., Tensor],
    x: Inputs,
    dtype: torch.dtype,
    scale: float = 10.0,
    bias: float | None = -10.0,
    frozen: tuple[str, ...] = (),
    reduction: str = "none",
    **options: object,
) -> dict[str, Tensor]:
    """The loss and all gradients but those of what is ``frozen``, by name."""
    leaves = {"image_features": x.image.to(dtype), "text_features": x.text.to(dtype)}
    leaves["logit_scale"] = torch.tensor(scale, dtype=torch.float64)
    if bias is not None:
        leaves["logit_bias"] = torch.tensor(bias, dtype=torch.float64)
    leaves = {name: z.clone().requires_grad_(name not in frozen) for name, z in leaves.items()}
    loss = function(**leaves, reduction=reduction, **options)
    loss.backward((x.grad if reduction == "none" else x.grad[0]).to(loss.dtype))
    results = {"loss": loss.detach()}
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen), name
        if leaf.grad is not None:
            results[name] = leaf.grad
    return results


def assert_like_reference(
    x: Inputs, scale: float = 10.0, bias: float | None = -10.0, **options: object
) -> None:
    """The accuracy rule for the loss and every gradient.

    Errors of the gradients are relative to the terms that may cancel in them. The rule's floor is
    for logits up to 200; beyond, the rounding of a logit grows with it.
    """
    dtype = x.image.dtype
    actual = evaluate(sslkern.siglip_loss, x, dtype, scale, bias, **options)
    eager = evaluate(reference.siglip_loss, x, dtype, scale, bias, **options)
    exact = evaluate(reference.siglip_loss, x, torch.float64, scale, bias, **options)
    beyond = max(1.0, (scale + abs(bias or 0.0)) / 200)
    terms = sizes_of_terms(x, scale, bias, options)
    for name, expected in exact.items():
        got, plain = actual[name], eager[name]
        if name in ("logit_scale", "logit_bias"):  # float64; the work behind them is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        size = beyond * max(terms.get(name, 0.0), float(expected.abs().max()))
        what = f"{name}, {dtype}, {tuple(x.image.shape)}, scale {scale}, bias {bias}"
        assert_accurate(got, plain, expected, what, scale=size)


def sizes_of_terms(
    x: Inputs, scale: float, bias: float | None, options: Options
) -> dict[str, float]:
    """The largest sum of magnitudes behind an element of each gradient."""
    image, text = x.image.double(), x.text.double()
    dot = image @ text.T
    label = torch.full_like(dot, -1.0)
    if not options.get("negative_only"):
        label.fill_diagonal_(1.0)
    g = x.grad if options.get("reduction", "none") == "none" else x.grad[:1] / len(image)
    grad = g[:, None] * torch.sigmoid(-label * (scale * dot + (bias or 0.0)))
    return {
        "image_features": scale * float((grad @ text.abs()).max()),
        "text_features": scale * float((grad.T @ image.abs()).max()),
        "logit_scale": float((grad * dot.abs()).sum()),
        "logit_bias": float(grad.sum()),
    }


# ---- the reference itself


@pytest.mark.parametrize("negative_only", [False, True])
def test_reference_passes_gradcheck(negative_only: bool) -> None:
    x = make_inputs(4, 5 if negative_only else 4, 3, torch.float64)
    scale, bias = (torch.tensor(v, dtype=torch.float64) for v in (3.0, -2.0))
    inputs = [z.requires_grad_() for z in (x.image, x.text, scale, bias, x.grad)]

    def loss(i: Tensor, t: Tensor, s: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return reference.siglip_loss(i, t, s, b, negative_only=negative_only, weight=w)

    assert torch.autograd.gradcheck(loss, inputs)


def test_reference_is_binary_cross_entropy() -> None:
    x = make_inputs(7, 7, 4, torch.float64)
    logits = 5.0 * x.image @ x.text.T - 3.0
    match = torch.eye(7, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, match, reduction="sum") / 7
    actual = reference.siglip_loss(x.image, x.text, 5.0, -3.0)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    none = reference.siglip_loss(x.image, x.text, 5.0, -3.0, negative_only=True)
    expected = F.binary_cross_entropy_with_logits(logits, 0 * match, reduction="sum") / 7
    torch.testing.assert_close(none, expected, rtol=1e-13, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_matches_reference(
    reduction: str, negative_only: bool, n: int, m: int, d: int, dtype: torch.dtype
) -> None:
    x = make_inputs(n, m if negative_only else n, d, dtype)
    assert_like_reference(x, reduction=reduction, negative_only=negative_only)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, 10.0, 117.0, 1000.0])
@pytest.mark.parametrize("bias", [None, 3.0, -10.0, -16.5])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_matches_reference_at_any_scale_and_bias(
    reduction: str, bias: float | None, scale: float, dtype: torch.dtype
) -> None:
    x = make_inputs(130, 130, 40, dtype)
    assert_like_reference(x, scale, bias, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1e-3, 0.3, 20.0])
def test_rows_of_any_norm(length: float, dtype: torch.dtype) -> None:
    """Nothing is normalised here."""
    x = make_inputs(60, 60, 20, torch.float64)
    longer = x._replace(image=(length * x.image).to(dtype), text=x.text.to(dtype))
    assert_like_reference(longer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "frozen",
    [
        ("text_features",),
        ("image_features",),
        ("image_features", "logit_scale", "logit_bias"),
        ("image_features", "text_features"),
        ("image_features", "text_features", "logit_scale"),
        ("logit_scale", "logit_bias"),
        ("logit_bias",),
    ],
)
def test_any_part_may_be_frozen(
    frozen: tuple[str, ...], reduction: str, dtype: torch.dtype
) -> None:
    """The gradient of the scale comes of that of the images, of the texts, or alone."""
    x = make_inputs(110, 70, 20, dtype)
    assert_like_reference(x, frozen=frozen, reduction=reduction, negative_only=True)


@pytest.mark.parametrize("wanted", LEAVES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_only_the_asked_gradient_is_given(reduction: str, wanted: str) -> None:
    x = make_inputs(60, 60, 8, torch.float64)
    everything = evaluate(sslkern.siglip_loss, x, torch.float64, reduction=reduction)
    frozen = tuple(name for name in LEAVES if name != wanted)
    one = evaluate(sslkern.siglip_loss, x, torch.float64, frozen=frozen, reduction=reduction)
    torch.testing.assert_close(one[wanted], everything[wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_passes_gradcheck(reduction: str, weighted: bool, negative_only: bool) -> None:
    x = make_inputs(4, 6 if negative_only else 4, 5, torch.float64)
    scale, bias = (torch.tensor(v, dtype=torch.float64) for v in (3.0, -2.0))
    leaves = [x.image, x.text, scale, bias, *([x.grad] if weighted else [])]

    def loss(i: Tensor, t: Tensor, s: Tensor, b: Tensor, w: Tensor | None = None) -> Tensor:
        options: Options = {"negative_only": negative_only, "reduction": reduction, "weight": w}
        return sslkern.siglip_loss(i, t, s, b, **options)

    inputs = [z.requires_grad_() for z in leaves]
    assert passes_gradcheck(loss, inputs, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("negative_only", [False, True])
def test_reductions_and_weights_match_reference(
    negative_only: bool, weighted: bool, reduction: str
) -> None:
    x = make_inputs(50, 50, 16, torch.float64)
    options: Options = {"reduction": reduction, "negative_only": negative_only}
    options["weight"] = x.grad if weighted else None
    actual = sslkern.siglip_loss(x.image, x.text, 10.0, -10.0, **options)
    expected = reference.siglip_loss(x.image, x.text, 10.0, -10.0, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_result_and_gradient_dtypes_and_shapes(reduction: str, dtype: torch.dtype) -> None:
    x = make_inputs(6, 6, 8, dtype)
    image, text = x.image.requires_grad_(), x.text.requires_grad_()
    scale = torch.tensor([10.0], requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.bfloat16, requires_grad=True)
    loss = sslkern.siglip_loss(image, text, scale, bias, reduction=reduction)
    loss.sum().backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.shape == ((6,) if reduction == "none" else ())
    for leaf in (image, text, scale, bias):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.shape == leaf.shape


def test_scale_and_bias_may_be_numbers() -> None:
    x = make_inputs(9, 9, 8, torch.float64)
    scale, bias = (torch.tensor(v, dtype=torch.float64) for v in (10.0, -10.0))
    expected = sslkern.siglip_loss(x.image, x.text, scale, bias)
    assert torch.equal(sslkern.siglip_loss(x.image, x.text, 10.0, -10.0), expected)
    assert torch.equal(sslkern.siglip_loss(x.image, x.text, 10, -10), expected)
    without = sslkern.siglip_loss(x.image, x.text, 10.0)
    assert torch.equal(without, sslkern.siglip_loss(x.image, x.text, 10.0, 0.0))


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_scales_with_upstream(reduction: str, factor: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_inputs(40, 40, 8, torch.float32)
    expected = evaluate(sslkern.siglip_loss, x, torch.float32, reduction=reduction)
    louder = x._replace(grad=x.grad * factor)
    scaled = evaluate(sslkern.siglip_loss, louder, torch.float32, reduction=reduction)
    for name in LEAVES:
        torch.testing.assert_close(scaled[name] / factor, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_float16_gradient_is_rounded_after_the_upstream_factor(reduction: str) -> None:
    """What a gradient scaler is for: without its factor they are below the smallest float16."""
    x = make_inputs(40, 40, 8, torch.float16)
    options: Options = {"reduction": reduction, "negative_only": True}
    lost = evaluate(sslkern.siglip_loss, x, torch.float16, 10.0, -32.0, **options)
    assert all(lost[name].abs().max() == 0 for name in LEAVES[:2])
    assert_like_reference(x._replace(grad=2.0**24 * x.grad), 10.0, -32.0, **options)


@in_memory_layouts
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_views_give_the_same_numbers(reduction: str, view: Callable[[Tensor], Tensor]) -> None:
    x = make_inputs(41, 41, 19, torch.float32)
    expected = evaluate(sslkern.siglip_loss, x, torch.float32, reduction=reduction)
    image, text = (view(z).detach().requires_grad_() for z in (x.image, x.text))
    loss = sslkern.siglip_loss(image, text, 10.0, -10.0, reduction=reduction)
    loss.backward((x.grad if reduction == "none" else x.grad[0]).float())
    assert torch.equal(loss, expected["loss"])
    for name, leaf in (("image_features", image), ("text_features", text)):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[name])


# ---- gradients formed in the forward pass


class OutputSizes(TorchDispatchMode):
    """The forward operators that ran, and the elements in each of their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {}

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.name() in ("sslkern::siglip_fwd", "sslkern::siglip_sum_fwd"):
            outputs = result if isinstance(result, tuple) else (result,)
            self.sizes[func.name()] = [t.numel() for t in outputs]
        return result


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ((), [300, 300, 1, 1]),
        (("text_features",), [300, 0, 1, 1]),
        (("image_features",), [0, 300, 1, 1]),
        (("image_features", "text_features"), [300, 0, 1, 1]),
        (("image_features", "text_features", "logit_scale"), [0, 0, 0, 1]),
        (LEAVES, [0, 0, 0, 0]),
    ],
)
def test_only_what_is_wanted_is_formed(frozen: tuple[str, ...], expected: list[int]) -> None:
    x = make_inputs(6, 6, 50, torch.float32)
    leaves = (x.image, x.text, torch.tensor(10.0), torch.tensor(-10.0))
    for name, leaf in zip(LEAVES, leaves, strict=True):
        leaf.requires_grad_(name not in frozen)
    with OutputSizes() as outputs:
        sslkern.siglip_loss(*leaves)
    assert outputs.sizes == {"sslkern::siglip_sum_fwd": [1, *expected]}
    with torch.no_grad(), OutputSizes() as outputs:
        sslkern.siglip_loss(*leaves)
    assert outputs.sizes == {"sslkern::siglip_sum_fwd": [1, 0, 0, 0, 0]}


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_with_their_own_gradient_form_nothing(weighted: bool) -> None:
    x = make_inputs(6, 6, 50, torch.float32)
    options: Options = {"weight": x.grad} if weighted else {"reduction": "none"}
    with OutputSizes() as outputs:
        sslkern.siglip_loss(x.image.requires_grad_(), x.text, 10.0, -10.0, **options)
    assert outputs.sizes == {"sslkern::siglip_fwd": [6]}


def test_equal_weights_are_the_mean() -> None:
    """Both ways to the gradients."""
    x = make_inputs(300, 300, 40, torch.float64)
    formed = evaluate(sslkern.siglip_loss, x, torch.float64, reduction="mean")
    weight = torch.full((300,), 0.25, dtype=torch.float64)
    again = evaluate(sslkern.siglip_loss, x, torch.float64, reduction="mean", weight=weight)
    for name, value in formed.items():
        torch.testing.assert_close(again[name], value, rtol=1e-12, atol=1e-14)


def test_operator_refuses_a_gradient_that_was_not_formed() -> None:
    x = make_inputs(6, 6, 5, torch.float32)
    scale = torch.tensor(10.0, requires_grad=True)
    inputs = (x.image, x.text.requires_grad_(), scale, None, True)
    message = r"^sslkern::siglip: expected form_{} to be .* got "
    with pytest.raises(ValueError, match=message.format("key") + "False"):
        torch.ops.sslkern.siglip_sum_fwd(*inputs, False, False, True, False)
    with pytest.raises(ValueError, match=message.format("scale") + "False"):
        torch.ops.sslkern.siglip_sum_fwd(*inputs, False, True, False, False)
    with pytest.raises(ValueError, match=message.format("bias") + "True"):
        torch.ops.sslkern.siglip_sum_fwd(*inputs, False, True, True, True)


def test_frozen_features_may_change_before_backward() -> None:
    x = make_inputs(40, 40, 33, torch.float32)
    expected = evaluate(sslkern.siglip_loss, x, torch.float32, reduction="mean")
    image, text = x.image.clone(), x.text.clone().requires_grad_()
    loss = sslkern.siglip_loss(image, text, 10.0, -10.0)
    image.zero_()
    loss.backward(x.grad[0].float())
    assert text.grad is not None
    torch.testing.assert_close(text.grad, expected["text_features"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_changing_what_needs_a_gradient_is_an_error(reduction: str) -> None:
    x = make_inputs(6, 6, 5, torch.float32)
    image = x.image.requires_grad_() * 1
    loss = sslkern.siglip_loss(image, x.text, 10.0, reduction=reduction).sum()
    with torch.no_grad():
        image.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_grad_gives_the_same_loss(dtype: torch.dtype) -> None:
    x = make_inputs(300, 300, 40, dtype)
    with_grad = sslkern.siglip_loss(x.image.requires_grad_(), x.text, 10.0, -10.0)
    with torch.no_grad():
        loss = sslkern.siglip_loss(x.image, x.text, 10.0, -10.0)
    assert with_grad.requires_grad
    assert not loss.requires_grad
    torch.testing.assert_close(loss, with_grad.detach(), rtol=1e-6, atol=0)


# ---- designed inputs


def log1p_exp(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


def sigmoid(s: float) -> float:
    return 1 / (1 + math.exp(-s))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [-10.0, 0.0, 3.0])
@pytest.mark.parametrize("n", [1, 2, 31, 300])
def test_orthonormal_rows_match_closed_form(n: int, bias: float, dtype: torch.dtype) -> None:
    z = torch.eye(n, dtype=dtype)
    expected = log1p_exp(-(8.0 + bias)) + (n - 1) * log1p_exp(bias)
    rel = 1e-13 if dtype == torch.float64 else 3e-6
    assert sslkern.siglip_loss(z, z, 8.0, bias).item() == pytest.approx(expected, rel=rel)
    negative = log1p_exp(8.0 + bias) + (n - 1) * log1p_exp(bias)
    loss = sslkern.siglip_loss(z, z, 8.0, bias, negative_only=True)
    assert loss.item() == pytest.approx(negative, rel=rel)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("bias", [-10.0, 2.0])
def test_zero_features_leave_the_bias(bias: float, reduction: str) -> None:
    z = torch.zeros(70, 5, dtype=torch.float64, requires_grad=True)
    scale, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (7.0, bias))
    loss = sslkern.siglip_loss(z, z.detach(), scale, b, reduction=reduction).sum()
    loss.backward()
    expected = 70 * (log1p_exp(-bias) + 69 * log1p_exp(bias))
    assert loss.item() == pytest.approx(expected, rel=1e-13)
    assert b.grad is not None
    assert b.grad.item() == pytest.approx(70 * (69 * sigmoid(bias) - sigmoid(-bias)), rel=1e-13)
    assert scale.grad is not None
    assert scale.grad.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [-5.0, -10.0, -16.0, -60.0, -86.0])
def test_many_tiny_terms_keep_their_digits(bias: float, dtype: torch.dtype) -> None:
    """Where SigLIP begins nearly all terms are about exp(bias)."""
    image, text = torch.zeros(3, 4, dtype=dtype), torch.zeros(500, 4, dtype=dtype)
    options: Options = {"negative_only": True, "reduction": "none"}
    b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    loss = sslkern.siglip_loss(image, text, 10.0, b, **options)
    loss.sum().backward()
    rel = 1e-13 if dtype == torch.float64 else 4 * 2**-24 * (1 - bias)
    assert loss.tolist() == pytest.approx([500 * math.log1p(math.exp(bias))] * 3, rel=rel)
    assert b.grad is not None
    assert b.grad.item() == pytest.approx(1500 * sigmoid(bias), rel=rel)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [200.0, 1e4])
def test_saturated_logits_are_finite_and_right(
    scale: float, reduction: str, dtype: torch.dtype
) -> None:
    """Logits of +scale and -scale, on the diagonal and elsewhere."""
    sign = torch.where(torch.arange(70) % 3 == 0, -1.0, 1.0)
    image = torch.zeros(70, 5, dtype=dtype)
    image[:, 0] = 1
    text = image * sign[:, None].to(dtype)
    x = Inputs(image, text, torch.full((70,), 0.5, dtype=torch.float64))
    actual = evaluate(sslkern.siglip_loss, x, dtype, scale, None, reduction=reduction)
    exact = evaluate(reference.siglip_loss, x, torch.float64, scale, None, reduction=reduction)
    matches = torch.where(sign > 0, 0.0, scale).double()
    negatives = scale * ((sign > 0).sum() - (sign > 0).double())
    closed = matches + negatives
    if reduction == "mean":
        closed = closed.mean()
    torch.testing.assert_close(exact["loss"], closed, rtol=1e-13, atol=0)
    torch.testing.assert_close(actual["loss"], closed.to(actual["loss"].dtype))
    for name in LEAVES[:3]:
        torch.testing.assert_close(actual[name], exact[name].to(actual[name].dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [1e4, -1e4, math.inf, -math.inf])
def test_any_bias_gives_the_limit(bias: float, dtype: torch.dtype) -> None:
    x = make_inputs(40, 40, 6, dtype)
    actual = evaluate(sslkern.siglip_loss, x, dtype, 10.0, bias)
    exact = evaluate(reference.siglip_loss, x, torch.float64, 10.0, bias)
    torch.testing.assert_close(actual["loss"].double(), exact["loss"], rtol=1e-6, atol=0)
    assert actual["logit_bias"].item() == pytest.approx(exact["logit_bias"].item(), rel=1e-6)
    for name in LEAVES[:2]:
        assert actual[name].isfinite().all()
    loss = sslkern.siglip_loss(x.image, x.text, 10.0, -abs(bias), negative_only=True)
    assert loss.item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bad", ["image", "text", "bias"])
def test_nan_shows_wherever_the_reference_has_it(
    bad: str, reduction: str, dtype: torch.dtype
) -> None:
    x = make_inputs(110, 110, 6, dtype)
    bias = math.nan if bad == "bias" else -10.0
    if bad != "bias":
        getattr(x, bad)[37, 3] = math.nan
    options: Options = {"reduction": reduction}
    actual = evaluate(sslkern.siglip_loss, x, dtype, 10.0, bias, **options)
    expected = evaluate(reference.siglip_loss, x, torch.float64, 10.0, bias, **options)
    assert torch.equal(actual["loss"].isnan(), expected["loss"].isnan())
    for name in LEAVES:
        assert actual[name][expected[name].isnan()].isnan().all(), name


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_infinite_input_gives_non_finite_loss(reduction: str, value: float) -> None:
    x = make_inputs(110, 110, 6, torch.float32)
    x.image[5, 0] = value
    loss = sslkern.siglip_loss(x.image, x.text, 10.0, -10.0, reduction=reduction)
    expected = reference.siglip_loss(x.image, x.text, 10.0, -10.0, reduction=reduction)
    assert not expected.isfinite().all()
    assert torch.equal(loss.isfinite(), expected.isfinite())


@pytest.mark.not_emulated
def test_more_than_two_to_the_31_pairs() -> None:
    """Also in the gradient."""
    n = 47000
    assert n * n > 2**31
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    image, text = torch.zeros(n, 1), torch.zeros(n, 1)
    loss = sslkern.siglip_loss(image, text, 10.0, bias)
    loss.backward()
    expected = log1p_exp(10.0) + (n - 1) * log1p_exp(-10.0)
    assert loss.item() == pytest.approx(expected, rel=3e-6)
    assert bias.grad is not None
    expected = (n - 1) * sigmoid(-10.0) - sigmoid(10.0)
    assert bias.grad.item() == pytest.approx(expected, rel=1e-5)


# ---- properties


def test_images_and_texts_may_be_swapped() -> None:
    x = make_inputs(130, 130, 12, torch.float64)
    one = evaluate(sslkern.siglip_loss, x, torch.float64, reduction="mean")
    swapped = x._replace(image=x.text, text=x.image)
    other = evaluate(sslkern.siglip_loss, swapped, torch.float64, reduction="mean")
    mirror = dict(zip(LEAVES[:2], LEAVES[1::-1], strict=True))
    for name, value in one.items():
        torch.testing.assert_close(other[mirror.get(name, name)], value, rtol=1e-11, atol=1e-14)


def test_permuting_the_pairs_permutes_the_losses() -> None:
    x = make_inputs(130, 130, 12, torch.float64)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(1))
    rows = sslkern.siglip_loss(x.image, x.text, 10.0, -10.0, reduction="none")
    permuted = sslkern.siglip_loss(x.image[order], x.text[order], 10.0, -10.0, reduction="none")
    torch.testing.assert_close(permuted, rows[order], rtol=1e-12, atol=0)


def test_chunks_of_texts_add_up() -> None:
    """As processes that pass their texts around would add them."""
    x = make_inputs(100, 100, 12, torch.float64)
    leaves = [z.clone().requires_grad_() for z in (x.image, x.text)]
    total = torch.zeros((), dtype=torch.float64)
    parts = (slice(0, 40), slice(40, 100))
    for i in parts:
        for j in parts:
            total = total + sslkern.siglip_loss(
                leaves[0][i], leaves[1][j], 10.0, -10.0, negative_only=i != j, reduction="sum"
            )
    total.backward()
    whole = [z.clone().requires_grad_() for z in (x.image, x.text)]
    loss = sslkern.siglip_loss(*whole, 10.0, -10.0, reduction="sum")
    loss.backward()
    torch.testing.assert_close(total, loss, rtol=1e-12, atol=0)
    for part, full in zip(leaves, whole, strict=True):
        torch.testing.assert_close(part.grad, full.grad, rtol=1e-10, atol=1e-13)


def test_reductions_agree() -> None:
    x = make_inputs(300, 300, 12, torch.float64)
    rows, total, mean = (
        sslkern.siglip_loss(x.image, x.text, 10.0, -10.0, reduction=reduction)
        for reduction in ("none", "sum", "mean")
    )
    torch.testing.assert_close(rows.sum(), total, rtol=1e-13, atol=0)
    assert torch.equal(total / 300, mean)


# ---- peers


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.fixture
def open_clip() -> Any:
    try:
        return peers.load_peer_file("open_clip_torch", "open_clip/loss.py")
    except UnavailableError as reason:
        pytest.skip(str(reason))


def assert_same(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """The same loss and gradients, to 1e-12 in float64."""
    results = []
    for function in (ours, theirs):
        leaves = [z.clone().requires_grad_() for z in inputs]
        loss = function(*leaves)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*results, strict=True):
        assert relative_difference(got, expected) < 1e-12


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (117.0, -12.9), (1.0, 0.5)])
def test_equals_open_clip(open_clip: Any, scale: float, bias: float) -> None:
    x = make_inputs(40, 40, 16, torch.float64)
    logits = (torch.tensor(v, dtype=torch.float64) for v in (scale, bias))
    inputs = (x.image, x.text, *logits)
    peer = open_clip.SigLipLoss()
    assert_same(SigLipLoss(), peer, *inputs)
    assert_same(lambda *z: SigLipLoss()(*z, None), lambda *z: peer(*z, None), *inputs[:3])
    theirs = peer(*inputs, output_dict=True)
    ours = SigLipLoss()(*inputs, output_dict=True)
    assert theirs.keys() == ours.keys()


def test_equals_open_clip_without_positives(open_clip: Any) -> None:
    x = make_inputs(40, 40, 16, torch.float64)
    logits = (torch.tensor(v, dtype=torch.float64) for v in (10.0, -10.0))
    assert_same(
        lambda *z: sslkern.siglip_loss(*z, negative_only=True),
        lambda *z: open_clip.SigLipLoss()._loss(*z, negative_only=True),
        *(x.image, x.text, *logits),
    )


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("frozen", [(), LEAVES[:1], LEAVES[:2]])
def test_bitwise_the_same_for_any_thread_count(
    frozen: tuple[str, ...], reduction: str, negative_only: bool
) -> None:
    x = make_inputs(700, 1000 if negative_only else 700, 70, torch.float32)
    options: Options = {"reduction": reduction, "negative_only": negative_only, "frozen": frozen}
    torch.set_num_threads(1)
    expected = evaluate(sslkern.siglip_loss, x, torch.float32, **options)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(sslkern.siglip_loss, x, torch.float32, **options)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_inputs_are_left_alone(reduction: str) -> None:
    x = make_inputs(30, 30, 7, torch.float32)
    before = [z.clone() for z in x]
    leaves = [z.requires_grad_() for z in x[:2]]
    sslkern.siglip_loss(*leaves, 10.0, -10.0, reduction=reduction).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


# ---- errors

IMAGE, TEXT = torch.randn(4, 5), torch.randn(4, 5)
INT = torch.arange(4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # features
        ({"image_features": IMAGE[0]}, ValueError, r"image_features to be .* got shape \(5,\)"),
        ({"text_features": TEXT[0]}, ValueError, r"text_features to be .* got shape \(5,\)"),
        ({"text_features": TEXT[:, :4]}, ValueError, r"text_features to be .* got shape \(4, 4\)"),
        ({"text_features": TEXT[:3]}, ValueError, r"text_features to be one row .* got 3 rows"),
        ({"image_features": IMAGE[:0]}, ValueError, r"image_features to be .* got shape \(0, 5\)"),
        ({"text_features": TEXT[:0]}, ValueError, r"text_features to be .* got shape \(0, 5\)"),
        (
            {"image_features": IMAGE[:, :0], "text_features": TEXT[:, :0]},
            ValueError,
            r"image_features to be .* got shape \(4, 0\)",
        ),
        ({"text_features": TEXT.double()}, TypeError, r"text_features to be .* got torch.float64"),
        ({"image_features": IMAGE.long()}, TypeError, r"image_features to be .* got torch.int64"),
        ({"image_features": IMAGE + 0j}, TypeError, r"image_features to be .* got torch.complex64"),
        ({"image_features": IMAGE.to_sparse()}, TypeError, r"image_features .* got layout Sparse"),
        ({"text_features": TEXT.to_sparse()}, TypeError, r"text_features .* got layout Sparse"),
        ({"image_features": [1.0]}, TypeError, r"image_features to be a tensor, got list"),
        ({"text_features": None}, TypeError, r"text_features to be a tensor, got NoneType"),
        (
            {"text_features": TEXT[:, :4], "negative_only": True},
            ValueError,
            r"text_features to be .* got shape \(4, 4\)",
        ),
        # scale, bias
        ({"logit_scale": 0.0}, ValueError, r"logit_scale to be positive and finite, got 0"),
        ({"logit_scale": -1}, ValueError, r"logit_scale to be positive and finite, got -1"),
        ({"logit_scale": math.nan}, ValueError, r"logit_scale to be positive and finite, got nan"),
        ({"logit_scale": math.inf}, ValueError, r"logit_scale to be positive and finite, got inf"),
        ({"logit_scale": torch.ones(4)}, ValueError, r"logit_scale to be .* got shape \(4,\)"),
        ({"logit_scale": torch.tensor(1)}, TypeError, r"logit_scale to be of dtype .*int64"),
        ({"logit_scale": "1"}, TypeError, r"logit_scale to be a number .* got str"),
        ({"logit_scale": True}, TypeError, r"logit_scale to be a number .* got bool"),
        ({"logit_scale": None}, TypeError, r"logit_scale to be a number .* got NoneType"),
        ({"logit_bias": torch.ones(4)}, ValueError, r"logit_bias to be .* got shape \(4,\)"),
        ({"logit_bias": torch.tensor(1)}, TypeError, r"logit_bias to be of dtype .*int64"),
        ({"logit_bias": "1"}, TypeError, r"logit_bias to be a number .* got str"),
        # numbers
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.ones(4, 1)}, ValueError, r"weight to be of shape .* got shape \(4, 1\)"),
        ({"weight": INT}, TypeError, r"weight to be a floating-point tensor, got torch.int64"),
        ({"weight": [1.0] * 4}, TypeError, r"weight to be a tensor, got list"),
    ],
)
def test_bad_input_is_refused(
    options: Options, error: type[Exception], message: str, reduction: str
) -> None:
    good: Options = {"image_features": IMAGE, "text_features": TEXT, "logit_scale": 10.0}
    with pytest.raises(error, match=r"^sslkern::siglip: expected " + message):
        sslkern.siglip_loss(**{**good, "reduction": reduction, **options})


@pytest.mark.parametrize("grad", [torch.ones(3), torch.ones(4, 1), torch.ones(4).double()])
def test_operator_refuses_a_bad_upstream_gradient(grad: Tensor) -> None:
    scale = torch.tensor(10.0)
    with pytest.raises(ValueError, match="grad_loss to be of shape"):
        torch.ops.sslkern.siglip_bwd(grad, IMAGE, TEXT, scale, None, True, True, True, True, False)
    with pytest.raises(ValueError, match="need_bias to be False without logit_bias, got True"):
        torch.ops.sslkern.siglip_bwd(
            torch.ones(4), IMAGE, TEXT, scale, None, True, True, True, True, True
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("leaf", LEAVES)
def test_second_derivative_is_refused(leaf: str, reduction: str) -> None:
    inputs: Options = {"image_features": IMAGE.clone(), "text_features": TEXT.clone()}
    inputs |= {"logit_scale": torch.tensor(10.0), "logit_bias": torch.tensor(-10.0)}
    inputs[leaf].requires_grad_()
    loss = sslkern.siglip_loss(**inputs, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(loss, inputs[leaf], create_graph=True)
    with pytest.raises(NotImplementedError, match="sslkern::siglip: expected the gradient"):
        grad.square().sum().backward()


def test_module_refuses_processes_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"world_size to be 1 where torch\.distributed is"):
        SigLipLoss(rank=1, world_size=2)(torch.eye(2), torch.eye(2), 2.0)


# ---- torch integration


def test_module_equals_function() -> None:
    x = make_inputs(7, 7, 8, torch.float32)
    expected = sslkern.siglip_loss(x.image, x.text, 10.0, -10.0)
    assert torch.equal(SigLipLoss()(x.image, x.text, 10.0, -10.0), expected)
    module = SigLipLoss(cache_labels=True, dist_impl="gather")
    as_dict = module(x.image, x.text, torch.tensor(10.0), torch.tensor(-10.0), output_dict=True)
    assert list(as_dict) == ["contrastive_loss"]
    assert torch.equal(as_dict["contrastive_loss"], expected)
    without = SigLipLoss()(x.image, x.text, 10.0)
    assert torch.equal(without, sslkern.siglip_loss(x.image, x.text, 10.0))


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("pairs", dtype) for dtype in DTYPES),
        *((kind, torch.float32) for kind in ("negatives", "no bias", "frozen")),
    ],
)
def test_opcheck(kind: str, dtype: torch.dtype) -> None:
    positives = kind != "negatives"
    x = make_inputs(6, 6 if positives else 9, 5, dtype)
    image, text = x.image.requires_grad_(kind != "frozen"), x.text.requires_grad_(kind != "frozen")
    scale = torch.tensor([10.0], requires_grad=True)
    bias = None if kind == "no bias" else torch.tensor(-1.0, requires_grad=True)
    inputs = (image, text, scale, bias)
    form = tuple(z is not None and z.requires_grad for z in inputs)
    torch.library.opcheck(torch.ops.sslkern.siglip_fwd, (*inputs, positives))
    torch.library.opcheck(torch.ops.sslkern.siglip_sum_fwd, (*inputs, positives, *form))
    detached = tuple(z if z is None else z.detach() for z in inputs)
    rows = torch.ones(6, dtype=torch.promote_types(dtype, torch.float32))
    torch.library.opcheck(torch.ops.sslkern.siglip_bwd, (rows, *detached, positives, *form))
    formed = rows.new_ones(6, 5)
    torch.library.opcheck(torch.ops.sslkern.siglip_formed_bwd, (rows[0], detached[0], formed))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_compiles_without_graph_break(reduction: str, negative_only: bool, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.siglip_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    options: Options = {"reduction": reduction, "negative_only": negative_only}
    for n in (6, 9):
        x = make_inputs(n, n + 4 if negative_only else n, 5, torch.float32)
        expected = evaluate(sslkern.siglip_loss, x, torch.float32, **options)
        actual = evaluate(compiled, x, torch.float32, **options)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
@pytest.mark.parametrize("frozen", [LEAVES[:1], LEAVES[:2], LEAVES[2:]])
def test_compiles_with_parts_frozen(frozen: tuple[str, ...]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.siglip_loss, backend="aot_eager", fullgraph=True)
    x = make_inputs(6, 6, 5, torch.float32)
    for weight in (None, x.grad):
        options: Options = {"reduction": "mean", "frozen": frozen, "weight": weight}
        expected = evaluate(sslkern.siglip_loss, x, torch.float32, **options)
        actual = evaluate(compiled, x, torch.float32, **options)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_inputs(6, 6, 5, torch.float32)

    def training_loss(image: Tensor, text: Tensor) -> Tensor:
        return sslkern.siglip_loss(image.relu(), text * 2, 10.0, -10.0) + 1

    image = x.image.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(image, x.text).backward()
    expected = x.image.clone().requires_grad_()
    training_loss(expected, x.text).backward()
    torch.testing.assert_close(image.grad, expected.grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("widest", ["image", "text"])
def test_autocast_promotes_mixed_dtypes(widest: str, reduction: str) -> None:
    x = make_inputs(6, 6, 5, torch.bfloat16)
    mixed = x._replace(**{widest: getattr(x, widest).float()})
    with autocast():
        loss = sslkern.siglip_loss(mixed.image, mixed.text, 10.0, -10.0, reduction=reduction)
    wide = sslkern.siglip_loss(x.image.float(), x.text.float(), 10.0, -10.0, reduction=reduction)
    torch.testing.assert_close(loss, wide, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_autocast_trains_through_a_layer(reduction: str) -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.siglip_loss(z[:3], z[3:].float(), 2.0, -1.0, reduction=reduction).sum()
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().max() > 0


def test_checkpoint_gives_the_same_gradient() -> None:
    """Its first forward pass runs without gradients and forms none."""
    x = make_inputs(40, 40, 8, torch.float32)
    expected = evaluate(sslkern.siglip_loss, x, torch.float32, reduction="mean")
    for reentrant in (False, True):
        image = x.image.clone().requires_grad_()
        loss = torch.utils.checkpoint.checkpoint(
            sslkern.siglip_loss, image, x.text, 10.0, -10.0, use_reentrant=reentrant
        )
        loss.backward(x.grad[0].float())
        assert image.grad is not None
        torch.testing.assert_close(image.grad, expected["image_features"], rtol=1e-6, atol=1e-9)


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.siglip_loss(IMAGE, TEXT, 10.0, -10.0).isfinite()
        assert sslkern.siglip_loss(IMAGE, TEXT, 10.0, -10.0, reduction="none").isfinite().all()
