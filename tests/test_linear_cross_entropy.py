"""Softmax over a vocabulary against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from devices import autocast
from gradients import passes_gradcheck
from torch import Tensor
from torch.nn import functional as F

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import memory
from sslkern.losses import LinearCrossEntropyLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WORKING = [torch.float64, torch.float32]
KINDS = ["index", "probability"]
IGNORED = -100

# N rows, V classes around tiles of 96, 192 and 288 and the micro-tiles of 6, 12, 16 and 32, and
# more tiles of classes than there are partial sums; D around vectors, the strip of 32 and the 256
# dimensions of a pass.
SIZES = [
    (1, 1, 1), (1, 2, 127), (2, 16, 3), (3, 31, 32), (7, 32, 128), (12, 33, 31), (13, 96, 130),
    (95, 97, 1), (97, 288, 33), (300, 100, 257), (33, 300, 129), (64, 1000, 3), (290, 1600, 5),
    (1600, 7, 16), (5, 5000, 8),
]  # fmt: skip

# Lengths of the rows of the weight: with short ones no exponential needs a shift.
SHORT, LONG = 1.0, 15.0

Options = dict[str, Any]
Loss = Callable[..., Tensor]


class Problem(NamedTuple):
    """Rows, classes, targets, and one upstream gradient per row."""

    input: Tensor
    weight: Tensor
    target: Tensor
    bias: Tensor | None
    grad: Tensor

    def leaves(self) -> dict[str, Tensor]:
        """What may have a gradient."""
        named = {"input": self.input, "weight": self.weight, "bias": self.bias}
        return {name: z for name, z in named.items() if z is not None}


def make_problem(
    n: int,
    v: int,
    d: int,
    dtype: torch.dtype,
    kind: str = "index",
    length: float = SHORT,
    bias: bool = False,
) -> Problem:
    """Rows that lean towards the class that is their target."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weight = length * F.normalize(normal(v, d))
    target = torch.randint(v, (n,), generator=g)
    rows = 4 * F.normalize(normal(n, d)) + weight[target] / length
    if kind == "probability":
        target = normal(n, v).mul(2).softmax(1).to(working(dtype))
    return Problem(
        rows.to(dtype),
        weight.to(dtype),
        target,
        normal(v).to(dtype) if bias else None,
        torch.rand(n, generator=g, dtype=torch.float64) + 0.5,
    )


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic."""
    return torch.promote_types(dtype, torch.float32)


def some_class_weights(v: int) -> Tensor:
    """From 0 to 2, with zeros among them."""
    g = torch.Generator().manual_seed(3)
    weights = 2 * torch.rand(v, generator=g, dtype=torch.float64)
    weights[1::5] = 0
    return weights


def evaluate(
    function: Loss,
    x: Problem,
    dtype: torch.dtype,
    frozen: tuple[str, ...] = (),
    **options: object,
) -> dict[str, Tensor]:
    """The loss of every row and all gradients but those of what is ``frozen``, by name."""
    leaves = {
        name: z.to(dtype).clone().requires_grad_(name not in frozen)
        for name, z in x.leaves().items()
    }
    target = x.target
    if target.is_floating_point() and dtype == torch.float64:
        target = target.double()
    loss = function(target=target, **leaves, reduction="none", **options)
    loss.backward(x.grad.to(loss.dtype))
    results = {"loss": loss.detach()}
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen), name
        if leaf.grad is not None:
            results[f"grad_{name}"] = leaf.grad
    return results


def assert_like_reference(x: Problem, **options: object) -> None:
    """The accuracy rule for the loss and every gradient.

    Errors are relative to the terms and not to what is left where the target dominates and they
    cancel; see `sizes_of_terms`.
    """
    dtype = x.input.dtype
    actual = evaluate(sslkern.linear_cross_entropy, x, dtype, **options)
    eager = evaluate(reference.linear_cross_entropy, x, dtype, **options)
    exact = evaluate(reference.linear_cross_entropy, x, torch.float64, **options)
    terms = sizes_of_terms(x, options.get("class_weight"))
    for name, expected in exact.items():
        scale = max(terms[name], float(expected[expected.isfinite()].abs().max()))
        what = f"{name}, {dtype}, {tuple(x.input.shape)} x {len(x.weight)}, {options}"
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


def sizes_of_terms(x: Problem, class_weight: object = None) -> dict[str, float]:
    """The coefficients of a row for its loss; for its gradients those of p and of t together.

    A class has such terms from each row that has it as its target. The rule's floor is for logits
    up to 200; beyond, the rounding of a logit grows with it.
    """
    longest_row = float(x.input.double().norm(dim=1).max())
    longest_class = float(x.weight.double().norm(dim=1).max())
    logits = longest_row * longest_class
    if x.bias is not None:
        logits += float(x.bias[x.bias.isfinite()].abs().max())
    row = max(1.0, logits / 200)
    if isinstance(class_weight, Tensor):
        row *= max(1.0, float(class_weight.max()))
    if x.target.is_floating_point():
        row *= float(x.target.sum(1).max())
        shared = max(1.0, float(x.target.sum(0).max()))
    else:
        shared = float(x.target[x.target >= 0].bincount(minlength=1).max())
    upstream = 2 * float(x.grad.abs().max())
    return {
        "loss": row,
        "grad_input": row * upstream * longest_class,
        "grad_weight": shared * row * upstream * longest_row,
        "grad_bias": shared * row * upstream,
    }


# ---- the reference itself


@pytest.mark.parametrize("kind", KINDS)
def test_reference_passes_gradcheck(kind: str) -> None:
    x = make_problem(4, 5, 3, torch.float64, kind, bias=True)
    options: Options = {"label_smoothing": 0.1, "class_weight": some_class_weights(5)}

    def loss(i: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return reference.linear_cross_entropy(i, w, x.target, bias=b, softcap=2.0, **options)

    assert torch.autograd.gradcheck(loss, [z.requires_grad_() for z in x.leaves().values()])


def test_reference_is_minus_the_expected_log_softmax() -> None:
    """With nothing of torch's own cross entropy in it."""
    x = make_problem(6, 9, 4, torch.float64, "probability", bias=True)
    assert x.bias is not None
    c = some_class_weights(9)
    logits = 3 * torch.tanh((x.input @ x.weight.T + x.bias) / 3)
    t = c * (0.8 * x.target + 0.2 / 9)
    options: Options = {"softcap": 3.0, "label_smoothing": 0.2, "class_weight": c}
    actual = reference.linear_cross_entropy(*x[:3], bias=x.bias, reduction="none", **options)
    torch.testing.assert_close(actual, -(t * logits.log_softmax(1)).sum(1), rtol=1e-13, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize(("n", "v", "d"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_matches_reference(
    kind: str, n: int, v: int, d: int, length: float, dtype: torch.dtype
) -> None:
    assert_like_reference(make_problem(n, v, d, dtype, kind, length, bias=v % 2 == 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1e-3, 0.1, 1.0, 10.0, 100.0, 2500.0])
@pytest.mark.parametrize("kind", KINDS)
def test_matches_reference_at_any_size_of_logits(
    kind: str, length: float, dtype: torch.dtype
) -> None:
    """Up to 1e4."""
    assert_like_reference(make_problem(70, 130, 40, dtype, kind, length, bias=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("label_smoothing", [0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_label_smoothing_matches_reference(
    kind: str, label_smoothing: float, length: float, dtype: torch.dtype
) -> None:
    for n, v in ((50, 110), (3, 33), (97, 300), (2, 2500)):
        x = make_problem(n, v, 20, dtype, kind, length)
        assert_like_reference(x, label_smoothing=label_smoothing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_class_weights_match_reference(
    kind: str, label_smoothing: float, length: float, dtype: torch.dtype
) -> None:
    for n, v in ((50, 110), (3, 33), (97, 300)):
        x = make_problem(n, v, 20, dtype, kind, length)
        c = some_class_weights(v)
        assert_like_reference(x, class_weight=c, label_smoothing=label_smoothing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0.1, 1.0, 60.0])
@pytest.mark.parametrize("softcap", [0.5, 30.0, 55.0, 56.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_softcap_matches_reference(
    kind: str, softcap: float, length: float, dtype: torch.dtype
) -> None:
    """A cap of up to 80 / log2(e) = 55.4 bounds the exponents by itself."""
    x = make_problem(50, 110, 20, dtype, kind, length, bias=True)
    assert_like_reference(x, softcap=softcap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("ignored", [slice(0, 1), slice(3, None), slice(None, None, 2)])
@pytest.mark.parametrize("ignore_index", [IGNORED, 0, 109])
def test_ignored_rows_match_reference(
    ignore_index: int, ignored: slice, length: float, dtype: torch.dtype
) -> None:
    x = make_problem(50, 110, 20, dtype, length=length, bias=True)
    x.target[ignored] = ignore_index
    assert_like_reference(x, ignore_index=ignore_index)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_all_options_together_match_reference(kind: str, length: float, dtype: torch.dtype) -> None:
    x = make_problem(97, 300, 33, dtype, kind, length, bias=True)
    if kind == "index":
        x.target[::3] = 7
    assert_like_reference(
        x,
        ignore_index=7,
        label_smoothing=0.1,
        class_weight=some_class_weights(300),
        softcap=20.0,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_banned_classes_match_reference(softcap: float | None, dtype: torch.dtype) -> None:
    """A bias of -infinity, also over whole tiles of classes."""
    assert_like_reference(with_banned_classes(dtype)[0], softcap=softcap)


def with_banned_classes(dtype: torch.dtype, kind: str = "index") -> tuple[Problem, Tensor]:
    """A problem with classes that no target allows, and which these are."""
    x = make_problem(50, 500, 20, dtype, kind, bias=True)
    assert x.bias is not None
    banned = torch.zeros(500, dtype=torch.bool)
    banned[100:400] = banned[3] = True
    x.bias[banned] = -math.inf
    if kind == "probability":
        x.target[:, banned] = 0
    else:
        x.target.copy_(x.target % 100)
        x.target[x.target == 3] = 2
    return x, banned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
def test_probabilities_of_any_dtype(given: torch.dtype, dtype: torch.dtype) -> None:
    x = make_problem(50, 110, 20, dtype, "probability")
    x = x._replace(target=x.target.to(given))
    same = x._replace(target=x.target.to(working(dtype)))
    actual = evaluate(sslkern.linear_cross_entropy, x, dtype)
    expected = evaluate(sslkern.linear_cross_entropy, same, dtype)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_need_not_sum_to_one(dtype: torch.dtype) -> None:
    x = make_problem(50, 110, 20, dtype, "probability")
    x.target.mul_(torch.linspace(0, 3, 50)[:, None])
    assert_like_reference(x)
    assert_like_reference(x, label_smoothing=0.2)


@pytest.mark.parametrize("given", DTYPES)
def test_bias_and_class_weights_of_any_dtype(given: torch.dtype) -> None:
    x = make_problem(50, 110, 20, torch.float32)
    bias = torch.linspace(-1, 1, 110).to(given).requires_grad_()
    c = some_class_weights(110).to(given)
    loss = sslkern.linear_cross_entropy(*x[:3], bias=bias, class_weight=c)
    loss.backward()
    same = bias.detach().double().requires_grad_()
    expected = sslkern.linear_cross_entropy(*x[:3], bias=same, class_weight=c.double())
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert bias.grad is not None
    assert same.grad is not None
    assert torch.equal(bias.grad, same.grad.to(given))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("length", [SHORT, 100.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_gradcheck(kind: str, reduction: str, length: float, softcap: float | None) -> None:
    x = make_problem(4, 6, 5, torch.float64, kind, bias=True)
    if kind == "index":
        x.target[1] = IGNORED
    options: Options = {"label_smoothing": 0.1, "class_weight": some_class_weights(6)}

    def loss(i: Tensor, w: Tensor, b: Tensor) -> Tensor:
        options["reduction"] = reduction
        return sslkern.linear_cross_entropy(
            i, w * length, x.target, bias=b, softcap=softcap, **options
        )

    inputs = [z.requires_grad_() for z in x.leaves().values()]
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


def with_leading_dimensions(x: Problem, *shape: int) -> Options:
    """The arguments, with the rows in this shape."""
    by_index = not x.target.is_floating_point()
    target = x.target.reshape(shape if by_index else (*shape, -1))
    return {"input": x.input.reshape(*shape, -1), "weight": x.weight, "target": target}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (24, 1)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_and_leading_dimensions_match_reference(
    kind: str, reduction: str, shape: tuple[int, ...], weighted: bool
) -> None:
    x = make_problem(24, 33, 16, torch.float64, kind)
    if kind == "index":
        x.target[::5] = IGNORED
    arguments = with_leading_dimensions(x, *shape)
    arguments["class_weight"] = some_class_weights(33) if weighted else None
    arguments["reduction"] = reduction
    actual = sslkern.linear_cross_entropy(**arguments)
    expected = reference.linear_cross_entropy(**arguments)
    assert actual.shape == (shape if reduction == "none" else ())
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_has_the_leading_dimensions_of_the_input(kind: str) -> None:
    x = make_problem(24, 33, 16, torch.float32, kind)
    arguments = with_leading_dimensions(x, 4, 6)
    arguments["input"].requires_grad_()
    sslkern.linear_cross_entropy(**arguments).backward()
    flat = x.input.clone().requires_grad_()
    sslkern.linear_cross_entropy(flat, x.weight, x.target).backward()
    assert flat.grad is not None
    assert torch.equal(arguments["input"].grad, flat.grad.reshape(4, 6, 16))


@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_asked_gradient_is_given(kind: str, wanted: str) -> None:
    x = make_problem(130, 310, 33, torch.float64, kind, bias=True)
    everything = evaluate(sslkern.linear_cross_entropy, x, torch.float64)
    frozen = tuple({"input", "weight", "bias"} - {wanted})
    alone = evaluate(sslkern.linear_cross_entropy, x, torch.float64, frozen)
    assert alone.keys() == {"loss", f"grad_{wanted}"}
    for name, value in alone.items():
        torch.testing.assert_close(value, everything[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_result_and_gradient_dtypes(kind: str, dtype: torch.dtype) -> None:
    x = make_problem(6, 9, 8, dtype, kind, bias=True)
    leaves = [z.requires_grad_() for z in x.leaves().values()]
    loss = sslkern.linear_cross_entropy(*x[:3], bias=x.bias)
    loss.backward()
    assert loss.dtype == working(dtype)
    assert all(z.grad is not None and z.grad.dtype == dtype for z in leaves)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_scales_with_upstream(kind: str, length: float, scale: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_problem(20, 30, 8, torch.float32, kind, length, bias=True)
    expected = evaluate(sslkern.linear_cross_entropy, x, torch.float32)
    louder = x._replace(grad=x.grad * scale)
    scaled = evaluate(sslkern.linear_cross_entropy, louder, torch.float32)
    for name in expected.keys() - {"loss"}:
        torch.testing.assert_close(scaled[name] / scale, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_its_own_upstream_gradient(kind: str) -> None:
    """Rows with little of it keep their digits beside rows with much."""
    x = make_problem(40, 110, 20, torch.float32, kind)
    factors = torch.logspace(-12, 3, 40, dtype=torch.float64)
    plain = x._replace(grad=torch.ones(40, dtype=torch.float64))
    expected = evaluate(sslkern.linear_cross_entropy, plain, torch.float32)["grad_input"]
    actual = evaluate(sslkern.linear_cross_entropy, x._replace(grad=factors), torch.float32)
    scaled = actual["grad_input"].double() / factors[:, None]
    torch.testing.assert_close(scaled, expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_float16_under_a_loss_scale(kind: str, length: float) -> None:
    """Beyond the range of float16 are the upstream gradient and the G of the kernel alone."""
    x = make_problem(70, 130, 40, torch.float16, kind, length)
    x = x._replace(input=x.input / 64, weight=x.weight / 64, grad=65536 * x.grad)
    assert_like_reference(x)
    results = evaluate(sslkern.linear_cross_entropy, x, torch.float16)
    assert all(value.isfinite().all() for value in results.values())


VIEWS = {
    "transposed": lambda z: z.T.contiguous().T,
    "row-stride": lambda z: torch.cat([z, z], dim=1)[:, : z.shape[1]],
    "interleaved": lambda z: torch.stack([z, z], dim=1)[:, 1],
    "column-stride": lambda z: torch.stack([z, z], dim=2)[:, :, 0],
    "offset": lambda z: torch.cat([z[:1], z])[1:],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_views_give_the_same_numbers(kind: str, view: Callable[[Tensor], Tensor]) -> None:
    x = make_problem(37, 41, 19, torch.float32, kind)
    expected = evaluate(sslkern.linear_cross_entropy, x, torch.float32)
    leaves = [view(z).detach().requires_grad_() for z in x[:2]]
    target = view(x.target) if kind == "probability" else x.target
    loss = sslkern.linear_cross_entropy(*leaves, target, reduction="none")
    loss.backward(x.grad.float())
    assert torch.equal(loss, expected["loss"])
    for leaf, name in zip(leaves, ("grad_input", "grad_weight"), strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[name])


@pytest.mark.parametrize("ignored", [False, True])
def test_views_of_vectors_give_the_same_numbers(ignored: bool) -> None:
    x = make_problem(20, 30, 8, torch.float32, bias=True)
    assert x.bias is not None
    if ignored:
        x.target[4:9] = IGNORED
    vectors = {"target": x.target, "bias": x.bias, "class_weight": some_class_weights(30)}
    strided = {name: torch.stack([z, z], dim=1)[:, 1] for name, z in vectors.items()}
    expected = sslkern.linear_cross_entropy(*x[:2], **vectors)
    assert torch.equal(sslkern.linear_cross_entropy(*x[:2], **strided), expected)


def test_one_distribution_may_be_expanded_over_all_rows() -> None:
    x = make_problem(40, 110, 20, torch.float32, "probability")
    expanded = x.target[:1].expand(40, 110)
    loss = sslkern.linear_cross_entropy(x.input, x.weight, expanded)
    expected = sslkern.linear_cross_entropy(x.input, x.weight, expanded.contiguous())
    assert torch.equal(loss, expected)


def test_no_grad_gives_the_same_loss() -> None:
    x = make_problem(60, 300, 40, torch.float32, bias=True)
    loss = sslkern.linear_cross_entropy(*x[:3], bias=x.bias)
    leaves = [z.clone().requires_grad_() for z in x.leaves().values()]
    with_grad = sslkern.linear_cross_entropy(leaves[0], leaves[1], x.target, bias=leaves[2])
    with torch.no_grad():
        quiet = sslkern.linear_cross_entropy(leaves[0], leaves[1], x.target, bias=leaves[2])
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(with_grad.detach(), loss, rtol=1e-6, atol=1e-6)


def test_a_second_backward_gives_the_same() -> None:
    x = make_problem(60, 300, 40, torch.float32)
    weight = x.weight.requires_grad_()
    loss = sslkern.linear_cross_entropy(x.input, weight, x.target)
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight)
    assert torch.equal(first, second)


def test_tied_embedding_gets_both_gradients() -> None:
    embedding = make_problem(2, 30, 8, torch.float64).weight.requires_grad_()
    tokens = torch.arange(12) % 7

    def gradient(function: Loss) -> Tensor:
        loss = function(F.embedding(tokens, embedding), embedding, tokens.roll(-1))
        return torch.autograd.grad(loss, embedding)[0]

    expected = gradient(reference.linear_cross_entropy)
    torch.testing.assert_close(gradient(sslkern.linear_cross_entropy), expected)


# ---- ignored rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ignore_index", [IGNORED, 5, 2**40])
def test_ignoring_rows_is_deleting_them(ignore_index: int, dtype: torch.dtype) -> None:
    """To the last bit, whatever these rows hold."""
    x = make_problem(130, 310, 33, dtype, bias=True)
    ignored = torch.arange(130) % 3 == 1
    x.target[x.target == 5] = 6
    x.target[ignored] = ignore_index
    x.input[ignored] = math.nan
    kept = x._replace(input=x.input[~ignored], target=x.target[~ignored], grad=x.grad[~ignored])
    actual = evaluate(sslkern.linear_cross_entropy, x, dtype, ignore_index=ignore_index)
    expected = evaluate(sslkern.linear_cross_entropy, kept, dtype, ignore_index=ignore_index)
    for name in ("loss", "grad_input"):
        assert not actual[name][ignored].any()
        assert torch.equal(actual[name][~ignored], expected[name])
    for name in ("grad_weight", "grad_bias"):
        assert torch.equal(actual[name], expected[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ignore_index", [IGNORED, 3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_but_ignored_rows_has_no_loss_and_no_gradient(
    weighted: bool, reduction: str, ignore_index: int, dtype: torch.dtype
) -> None:
    x = make_problem(7, 11, 5, dtype, bias=True)
    leaves = [z.requires_grad_() for z in x.leaves().values()]
    loss = sslkern.linear_cross_entropy(
        x.input,
        x.weight,
        torch.full((7,), ignore_index),
        bias=x.bias,
        ignore_index=ignore_index,
        class_weight=torch.zeros(11) if weighted else None,
        reduction=reduction,
    )
    loss.sum().backward()
    assert loss.shape == ((7,) if reduction == "none" else ())
    assert loss.dtype == working(dtype)
    assert not loss.any()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape
        assert leaf.grad.dtype == dtype
        assert not leaf.grad.any()


def test_mean_is_over_the_rows_that_remain() -> None:
    x = make_problem(30, 40, 8, torch.float64)
    x.target[10:] = IGNORED
    expected = sslkern.linear_cross_entropy(x.input[:10], x.weight, x.target[:10])
    torch.testing.assert_close(sslkern.linear_cross_entropy(*x[:3]), expected)


def test_ignore_index_is_no_matter_to_probabilities() -> None:
    x = make_problem(30, 40, 8, torch.float32, "probability")
    expected = sslkern.linear_cross_entropy(*x[:3])
    assert torch.equal(sslkern.linear_cross_entropy(*x[:3], ignore_index=3), expected)


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 2.0, 100.0])
@pytest.mark.parametrize("v", [1, 2, 33, 1000])
def test_zero_weight_gives_log_of_the_number_of_classes(
    v: int, softcap: float | None, dtype: torch.dtype
) -> None:
    x = make_problem(3, v, 4, dtype)
    weight = torch.zeros(v, 4, dtype=dtype, requires_grad=True)
    target = torch.tensor([0, v // 2, v - 1])
    loss = sslkern.linear_cross_entropy(x.input, weight, target, softcap=softcap, reduction="none")
    loss.sum().backward()
    eps = torch.finfo(working(dtype)).eps
    assert loss.tolist() == pytest.approx([math.log(v)] * 3, rel=8 * eps, abs=8 * eps)
    difference = 1 / v - F.one_hot(target, v).double()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, (difference.T @ x.input.double()).to(dtype))


@pytest.mark.parametrize("softcap", [None, 7.0, 500.0])
@pytest.mark.parametrize("v", [2, 40, 400])
@pytest.mark.parametrize("logit", [1.0, 30.0, 700.0])
def test_one_logit_beside_zeros_matches_closed_form(
    logit: float, v: int, softcap: float | None
) -> None:
    input = torch.tensor([[logit]], dtype=torch.float64)
    weight = torch.eye(v, 1, dtype=torch.float64)
    capped = logit if softcap is None else softcap * math.tanh(logit / softcap)
    likely = math.log1p((v - 1) * math.exp(-capped))
    for target, expected in ((0, likely), (v - 1, capped + likely)):
        loss = sslkern.linear_cross_entropy(input, weight, torch.tensor([target]), softcap=softcap)
        assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits_stay_finite(dtype: torch.dtype) -> None:
    """1e4 for the first class, beside which nothing counts."""
    input = torch.full((2, 1), 100, dtype=dtype, requires_grad=True)
    weight = (100 * torch.eye(50, 1, dtype=dtype)).requires_grad_()
    loss = sslkern.linear_cross_entropy(input, weight, torch.tensor([0, 7]), reduction="none")
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 1e4], rel=1e-6)
    assert input.grad is not None
    assert weight.grad is not None
    assert input.grad.flatten().tolist() == pytest.approx([0.0, 100.0], rel=1e-6)
    expected = 100 * (F.one_hot(torch.tensor(0), 50) - F.one_hot(torch.tensor(7), 50)).double()
    torch.testing.assert_close(weight.grad.flatten().double(), expected)


def test_one_class_has_no_loss_and_no_gradient() -> None:
    for kind in KINDS:
        x = make_problem(7, 1, 5, torch.float64, kind, bias=True)
        result = evaluate(sslkern.linear_cross_entropy, x, torch.float64)
        assert all(value.abs().max() < 1e-12 for value in result.values())


def test_weighted_mean_of_equal_rows_is_one_of_them() -> None:
    """Each has log 2 times its class weight; the mean divides by the sum of these weights."""
    zeros, target = torch.zeros(3, 4), torch.tensor([0, 1, 1])
    weights = torch.tensor([1.0, 3.0])
    rows, mean = (
        sslkern.linear_cross_entropy(
            zeros, zeros[:2], target, class_weight=weights, reduction=reduction
        )
        for reduction in ("none", "mean")
    )
    assert rows.tolist() == pytest.approx([math.log(2), 3 * math.log(2), 3 * math.log(2)])
    assert mean.item() == pytest.approx(math.log(2))


def test_full_label_smoothing_forgets_the_targets() -> None:
    x = make_problem(30, 40, 8, torch.float64)
    logits = x.input @ x.weight.T
    expected = (logits.logsumexp(1) - logits.mean(1)).mean()
    for target in (x.target, x.target.flip(0), torch.rand(30, 40).softmax(1)):
        loss = sslkern.linear_cross_entropy(x.input, x.weight, target, label_smoothing=1.0)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_banned_target_has_infinite_loss(dtype: torch.dtype) -> None:
    x = make_problem(5, 40, 8, dtype, bias=True)
    assert x.bias is not None
    x.target.copy_(torch.arange(5))
    x.bias[2] = -math.inf
    rows = sslkern.linear_cross_entropy(*x[:3], bias=x.bias, reduction="none")
    assert rows.isinf().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 5.0, 100.0])
@pytest.mark.parametrize("bad", ["input", "weight", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_shows_wherever_the_reference_has_it(
    kind: str, bad: str, softcap: float | None, dtype: torch.dtype
) -> None:
    x = make_problem(60, 110, 6, dtype, kind, bias=True)
    x.leaves()[bad].view(-1)[37] = math.nan
    actual = evaluate(sslkern.linear_cross_entropy, x, dtype, softcap=softcap)
    expected = evaluate(reference.linear_cross_entropy, x, torch.float64, softcap=softcap)
    assert torch.equal(actual["loss"].isnan(), expected["loss"].isnan())
    for name, value in expected.items():
        assert value.isnan().any()
        assert actual[name][value.isnan()].isnan().all(), name


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_input_gives_non_finite_loss(value: float) -> None:
    x = make_problem(60, 110, 6, torch.float32)
    x.input[5, 0] = value
    rows = sslkern.linear_cross_entropy(*x[:3], reduction="none")
    assert (~rows.isfinite()).nonzero().flatten().tolist() == [5]


# ---- properties


def assert_same_results(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_probabilities_of_one_class_are_its_index(length: float) -> None:
    x = make_problem(50, 110, 20, torch.float64, length=length, bias=True)
    one_hot = x._replace(target=F.one_hot(x.target, 110).double())
    options: Options = {"label_smoothing": 0.1, "class_weight": some_class_weights(110)}
    actual = evaluate(sslkern.linear_cross_entropy, one_hot, torch.float64, **options)
    assert_same_results(actual, evaluate(sslkern.linear_cross_entropy, x, torch.float64, **options))


def test_label_smoothing_is_smoothing_the_probabilities() -> None:
    x = make_problem(50, 110, 20, torch.float64, "probability")
    smooth = x._replace(target=0.7 * x.target + 0.3 / 110)
    actual = evaluate(sslkern.linear_cross_entropy, x, torch.float64, label_smoothing=0.3)
    assert_same_results(actual, evaluate(sslkern.linear_cross_entropy, smooth, torch.float64))


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_classes_does_not_matter(kind: str, length: float) -> None:
    x = make_problem(50, 310, 20, torch.float64, kind, length, bias=True)
    assert x.bias is not None
    order = torch.randperm(310, generator=torch.Generator().manual_seed(1))
    target = order.argsort()[x.target] if kind == "index" else x.target[:, order]
    moved = x._replace(weight=x.weight[order], bias=x.bias[order], target=target)
    actual = evaluate(sslkern.linear_cross_entropy, moved, torch.float64)
    expected = evaluate(sslkern.linear_cross_entropy, x, torch.float64)
    for name in ("grad_weight", "grad_bias"):
        actual[name] = actual[name][order.argsort()]
    assert_same_results(actual, expected)


def test_rows_do_not_see_each_other() -> None:
    x = make_problem(300, 110, 20, torch.float64)
    together = sslkern.linear_cross_entropy(*x[:3], reduction="none")
    for i in (0, 95, 96, 299):
        alone = sslkern.linear_cross_entropy(x.input[i : i + 1], x.weight, x.target[i : i + 1])
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_banning_classes_is_deleting_them(kind: str, dtype: torch.dtype) -> None:
    x, banned = with_banned_classes(dtype, kind)
    assert x.bias is not None
    new_index = (~banned).cumsum(0) - 1
    target = new_index[x.target] if kind == "index" else x.target[:, ~banned]
    fewer = x._replace(weight=x.weight[~banned], bias=x.bias[~banned], target=target)
    actual = evaluate(sslkern.linear_cross_entropy, x, dtype)
    expected = evaluate(sslkern.linear_cross_entropy, fewer, dtype)
    for name in ("grad_weight", "grad_bias"):
        assert not actual[name][banned].any()
        actual[name] = actual[name][~banned]
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-5)


def test_bias_is_one_more_dimension() -> None:
    x = make_problem(50, 110, 20, torch.float64, bias=True)
    assert x.bias is not None
    longer = x._replace(
        input=F.pad(x.input, (0, 1), value=1.0),
        weight=torch.cat([x.weight, x.bias[:, None]], dim=1),
        bias=None,
    )
    actual = evaluate(sslkern.linear_cross_entropy, x, torch.float64)
    expected = evaluate(sslkern.linear_cross_entropy, longer, torch.float64)
    torch.testing.assert_close(actual["loss"], expected["loss"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual["grad_weight"], expected["grad_weight"][:, :-1])
    torch.testing.assert_close(actual["grad_bias"], expected["grad_weight"][:, -1])


@pytest.mark.parametrize("shift", [3.0, 300.0])
def test_a_common_bias_does_not_matter(shift: float) -> None:
    x = make_problem(60, 110, 12, torch.float64)
    bias = torch.full((110,), shift, dtype=torch.float64, requires_grad=True)
    loss = sslkern.linear_cross_entropy(*x[:3], bias=bias)
    torch.testing.assert_close(loss, sslkern.linear_cross_entropy(*x[:3]), rtol=1e-11, atol=1e-11)
    loss.backward()
    assert bias.grad is not None
    assert abs(bias.grad.sum().item()) < 1e-11


def test_a_distant_softcap_changes_nothing() -> None:
    x = make_problem(50, 110, 20, torch.float64)
    capped = evaluate(sslkern.linear_cross_entropy, x, torch.float64, softcap=1e9)
    assert_same_results(capped, evaluate(sslkern.linear_cross_entropy, x, torch.float64))


def test_class_of_no_weight_is_as_good_as_ignored() -> None:
    x = make_problem(50, 20, 8, torch.float64)
    weights = torch.ones(20)
    weights[7] = 0
    assert (x.target == 7).any()
    weighted = sslkern.linear_cross_entropy(*x[:3], class_weight=weights)
    torch.testing.assert_close(weighted, sslkern.linear_cross_entropy(*x[:3], ignore_index=7))


# ---- size


@pytest.mark.not_emulated
def test_more_than_two_to_the_31_logits() -> None:
    """On some rows, and on some classes by the log-sum-exp of all rows."""
    n = v = 47000
    assert n * v > 2**31
    x = make_problem(n, v, 2, torch.float32)
    input, weight = x.input.requires_grad_(), x.weight.requires_grad_()
    loss = sslkern.linear_cross_entropy(input, weight, x.target, reduction="none")
    loss.sum().backward()
    assert input.grad is not None
    assert weight.grad is not None
    some = torch.tensor([0, 1, 23456, n - 1])
    rows = input.detach().double()
    leaf = rows[some].requires_grad_()
    expected = reference.linear_cross_entropy(
        leaf, weight.detach().double(), x.target[some], reduction="none"
    )
    expected.sum().backward()
    torch.testing.assert_close(loss[some].double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(input.grad[some].double(), leaf.grad, rtol=1e-4, atol=1e-5)
    classes = weight.detach().double()
    own_logit = (rows * classes[x.target]).sum(1)
    p = (rows @ classes[some].T - (loss.detach() + own_logit)[:, None]).exp()
    g = p - (x.target[:, None] == some).double()
    torch.testing.assert_close(weight.grad[some].double(), g.T @ rows, rtol=1e-4, atol=1e-4)


@pytest.mark.cpu_only
def test_memory_does_not_grow_with_rows_times_classes() -> None:
    """Forward and backward hold a small part of the logits, eager PyTorch several times these."""
    rows, classes = 2048, 30522

    def peak(contender: str) -> int:
        job = memory.Job("linear_cross_entropy", contender, rows, 16, "float32", 1)
        measured = memory.measure(job)
        if measured is None:
            pytest.skip("this system does not tell the peak of resident memory")
        return measured

    assert peak("sslkern") < 4 * rows * classes / 16
    assert peak("torch dense") > 4 * rows * classes


# ---- torch's own


def assert_like_torch(ours: Loss, theirs: Loss, leaves: dict[str, Tensor]) -> None:
    """The same loss and gradients, to 1e-12 in float64."""
    results = []
    for function in (ours, theirs):
        fresh = {name: z.clone().requires_grad_() for name, z in leaves.items()}
        loss = function(**fresh)
        loss.sum().backward()
        results.append([loss.detach(), *(z.grad for z in fresh.values())])
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_cross_entropy_of_linear(
    kind: str, reduction: str, label_smoothing: float, weighted: bool, bias: bool
) -> None:
    x = make_problem(60, 310, 20, torch.float64, kind, bias=bias)
    if kind == "index":
        x.target[::4] = IGNORED
    c = some_class_weights(310) if weighted else None
    options: Options = {"reduction": reduction, "label_smoothing": label_smoothing}

    def ours(**leaves: Tensor) -> Tensor:
        return sslkern.linear_cross_entropy(target=x.target, class_weight=c, **leaves, **options)

    def theirs(**leaves: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(**leaves), x.target, weight=c, **options)

    assert_like_torch(ours, theirs, x.leaves())


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ignore_index", [IGNORED, 3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_equals_linear_cross_entropy_of_torch(
    reduction: str, ignore_index: int, chunked: bool
) -> None:
    x = make_problem(60, 310, 20, torch.float64, bias=True)
    x.target[::4] = ignore_index
    c = some_class_weights(310)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16) if chunked else None
    same: Options = {"reduction": reduction, "ignore_index": ignore_index}

    def ours(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return sslkern.linear_cross_entropy(
            input, weight, x.target, bias=bias, class_weight=c, **same
        )

    def theirs(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear_cross_entropy(
            input, weight, x.target, linear_bias=bias, weight=c, options=options, **same
        )

    assert_like_torch(ours, theirs, x.leaves())


def test_module_equals_that_of_torch() -> None:
    x = make_problem(60, 310, 20, torch.float64, bias=True)
    c = some_class_weights(310)
    theirs = torch.nn.LinearCrossEntropyLoss(
        20, 310, bias=True, weight=c, label_smoothing=0.1, dtype=torch.float64
    )
    ours = LinearCrossEntropyLoss(class_weight=c, label_smoothing=0.1)
    layer = theirs.linear
    torch.testing.assert_close(
        ours(x.input, layer.weight, x.target, layer.bias), theirs(x.input, x.target)
    )
    assert ours.state_dict().keys() == {"class_weight"}


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", KINDS)
def test_bitwise_the_same_for_any_thread_count(
    kind: str, length: float, softcap: float | None
) -> None:
    x = make_problem(300, 700, 70, torch.float32, kind, length, bias=True)
    if kind == "index":
        x.target[::7] = IGNORED
    options: Options = {"softcap": softcap, "label_smoothing": 0.1}
    torch.set_num_threads(1)
    expected = evaluate(sslkern.linear_cross_entropy, x, torch.float32, **options)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(sslkern.linear_cross_entropy, x, torch.float32, **options)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_left_alone(kind: str) -> None:
    x = make_problem(20, 30, 7, torch.float32, kind, bias=True)
    tensors = [x.target, *x.leaves().values()]
    before = [z.clone() for z in tensors]
    evaluate(sslkern.linear_cross_entropy, x, torch.float32, label_smoothing=0.1)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("changed", ["input", "weight"])
def test_changing_an_input_before_backward_is_an_error(changed: str) -> None:
    x = make_problem(6, 9, 5, torch.float32)
    leaves = {name: z.requires_grad_() * 1 for name, z in x.leaves().items()}
    loss = sslkern.linear_cross_entropy(**leaves, target=x.target)
    with torch.no_grad():
        leaves[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- errors

X, W, Y = torch.randn(4, 5), torch.randn(7, 5), torch.tensor([0, 6, 2, 1])
Q = torch.rand(4, 7).softmax(1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # input, weight
        ({"input": X[0]}, ValueError, r"input to be of shape \(N, D\), got shape \(5,\)"),
        ({"input": X[:0], "target": Y[:0]}, ValueError, r"input to be .* got shape \(0, 5\)"),
        ({"input": X[:, :0], "weight": W[:, :0]}, ValueError, r"input to be .* got shape \(4, 0"),
        ({"input": X.long()}, TypeError, r"input to be of dtype .* got torch.int64"),
        ({"input": X + 0j}, TypeError, r"input to be of dtype .* got torch.complex64"),
        ({"input": X.to_sparse()}, TypeError, r"input to be a dense tensor, got layout Sparse"),
        ({"input": [1.0]}, TypeError, r"input to be a tensor, got list"),
        ({"weight": W[0]}, ValueError, r"weight to be of shape \(V, D\), got shape \(5,\)"),
        ({"weight": W[None]}, ValueError, r"weight to be of shape .* got shape \(1, 7, 5\)"),
        ({"weight": W[:0]}, ValueError, r"weight to be .* got shape \(0, 5\)"),
        ({"weight": W[:, :4]}, ValueError, r"weight to be .* D of input, 5, got shape \(7, 4\)"),
        ({"weight": W.double()}, TypeError, r"weight to be of the dtype of input, .*float64"),
        ({"weight": W.to_sparse()}, TypeError, r"weight to be a dense tensor, got layout Sparse"),
        ({"weight": None}, TypeError, r"weight to be a tensor, got NoneType"),
        (
            {"weight": torch.zeros(1, 5).expand(2**31, 5)},
            ValueError,
            r"input and weight to be of less than 2\*\*31 rows, got 4 and 2147483648",
        ),
        # target
        ({"target": torch.tensor([0, 1, 2, 7])}, ValueError, r"target to be .* got 7"),
        ({"target": torch.tensor([0, -1, 2, 3])}, ValueError, r"target to be .* got -1"),
        ({"target": Y - 100}, ValueError, r"target to be .*ignore_index, got -9\d"),
        ({"target": Y - 3, "ignore_index": -3}, ValueError, r"target to be .* got -2"),
        ({"target": Y[:3]}, ValueError, r"target to be of shape \(N,\) = \(4,\), got shape \(3,"),
        ({"target": Y[:, None]}, ValueError, r"target to be of shape .* got shape \(4, 1\)"),
        ({"target": Y.int()}, TypeError, r"target to be .*torch.int64.* got torch.int32"),
        ({"target": Y.bool()}, TypeError, r"target to be .*torch.int64.* got torch.bool"),
        ({"target": Q + 0j}, TypeError, r"target to be .*torch.int64.* got torch.complex64"),
        ({"target": [0, 1, 2, 3]}, TypeError, r"target to be a tensor, got list"),
        ({"target": Y.to_sparse()}, TypeError, r"target to be a dense tensor, got layout Sparse"),
        ({"target": Q[:3]}, ValueError, r"target to be of shape \(N, V\) = \(4, 7\), got .*\(3, 7"),
        ({"target": Q[:, :6]}, ValueError, r"target to be of shape .* got shape \(4, 6\)"),
        ({"target": Q[0]}, ValueError, r"target to be of shape .* got shape \(7,\)"),
        # leading dimensions
        ({"input": X[None]}, ValueError, r"target to be of shape \(1, 4\), got shape \(4,\)"),
        (
            {"input": X[None], "target": Q},
            ValueError,
            r"target to be of shape \(1, 4, 7\), got shape \(4, 7\)",
        ),
        (
            {"input": X[None], "target": Q[None, :, :6]},
            ValueError,
            r"target to be of shape .*4, 7\), got shape .*4, 6\)",
        ),
        ({"input": X[:0, None], "target": Y[:0, None]}, ValueError, r"input to be .* got shape"),
        (
            {"input": X[None, :, :0]},
            ValueError,
            r"target to be of shape \(1, 4\), got shape \(4,\)",
        ),
        (
            {"input": X[None, :, :0], "target": Y[None]},
            ValueError,
            r"input to be .* got shape \(4, 0\)",
        ),
        (
            {"input": X[None], "target": Q[0, 0]},
            ValueError,
            r"target to be of shape \(1, 4, 7\), got shape \(\)",
        ),
        # bias, class_weight
        ({"bias": torch.ones(6)}, ValueError, r"bias to be of shape \(V,\) = \(7,\), got .*\(6,\)"),
        ({"bias": torch.ones(7, 1)}, ValueError, r"bias to be of shape .* got shape \(7, 1\)"),
        ({"bias": torch.arange(7)}, TypeError, r"bias to be of dtype .* got torch.int64"),
        ({"bias": 0.5}, TypeError, r"bias to be a tensor, got float"),
        ({"class_weight": torch.ones(6)}, ValueError, r"class_weight to be .* got shape \(6,\)"),
        ({"class_weight": torch.ones(7).long()}, TypeError, r"class_weight to be .*torch.int64"),
        ({"class_weight": [1.0] * 7}, TypeError, r"class_weight to be a tensor, got list"),
        (
            {"class_weight": torch.linspace(-0.5, 1, 7)},
            ValueError,
            r"class_weight to be of finite values >= 0, got -0.5",
        ),
        (
            {"class_weight": torch.tensor([1.0] * 6 + [math.inf])},
            ValueError,
            r"class_weight to be of finite values >= 0, got inf",
        ),
        (
            {"class_weight": torch.tensor([1.0] * 6 + [math.nan])},
            ValueError,
            r"class_weight to be of finite values >= 0, got -?nan",
        ),
        # numbers
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing to be in \[0, 1\], got -0.1"),
        ({"label_smoothing": 1.1}, ValueError, r"label_smoothing to be in \[0, 1\], got 1.1"),
        ({"label_smoothing": math.nan}, ValueError, r"label_smoothing to be .* got nan"),
        ({"softcap": 0.0}, ValueError, r"softcap to be positive and finite, got 0.0"),
        ({"softcap": -1.0}, ValueError, r"softcap to be positive and finite, got -1.0"),
        ({"softcap": math.inf}, ValueError, r"softcap to be positive and finite, got inf"),
        ({"softcap": math.nan}, ValueError, r"softcap to be positive and finite, got nan"),
        ({"softcap": "1"}, TypeError, r"softcap to be a number, got str"),
        ({"softcap": torch.tensor(1.0)}, TypeError, r"softcap to be a number, got Tensor"),
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        # gradients that there are not
        (
            {"target": Q.clone().requires_grad_()},
            NotImplementedError,
            r"target not to require grad, got one that does\. Call \.detach\(\) first",
        ),
        (
            {"class_weight": torch.ones(7, requires_grad=True)},
            NotImplementedError,
            r"class_weight not to require grad, got one that does",
        ),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    arguments = {"input": X, "weight": W, "target": Y, **options}
    with pytest.raises(error, match=r"^sslkern::linear_cross_entropy: expected " + message):
        sslkern.linear_cross_entropy(**arguments)


def test_bad_input_is_refused_by_the_backward_operator() -> None:
    _, stats = torch.ops.sslkern.linear_cross_entropy_fwd(X, W, None, Y, None, -100, 0.0, 0.0)
    good = [torch.ones(4), X, W, None, Y, None, stats, -100, 0.0, 0.0, True, True, False]
    for place, value, message in (
        (0, torch.ones(3), r"grad_loss to be of shape \(4,\) .* got shape \(3,\)"),
        (0, torch.ones(4).double(), r"grad_loss to be .* got .*torch.float64"),
        (6, stats[:, 0], r"stats to be what the forward pass returned, got shape \(4,\)"),
        (4, Y + 1, r"target to be .* got 7"),
        (9, -1.0, r"softcap to be in .1e-30, 1e30., got -1"),
        (9, math.nan, r"softcap to be in .1e-30, 1e30., got nan"),
    ):
        arguments = [*good[:place], value, *good[place + 1 :]]
        with pytest.raises(ValueError, match="^sslkern::linear_cross_entropy: expected " + message):
            torch.ops.sslkern.linear_cross_entropy_bwd(*arguments)


@pytest.mark.parametrize("name", ["target", "class_weight"])
def test_what_has_no_gradient_may_require_one_where_none_is_taken(name: str) -> None:
    options = {"target": Q, "class_weight": torch.ones(7)}
    expected = sslkern.linear_cross_entropy(X, W, **options)
    options[name] = options[name].clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(sslkern.linear_cross_entropy(X, W, **options), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_second_derivative_is_refused(reduction: str) -> None:
    for name in ("input", "weight", "bias"):
        leaves = {"input": X, "weight": W, "bias": torch.zeros(7)}
        leaf = leaves[name] = leaves[name].clone().requires_grad_()
        loss = sslkern.linear_cross_entropy(**leaves, target=Y, reduction=reduction)
        (grad,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
        message = "sslkern::linear_cross_entropy: expected the gradient not to be differentiated"
        with pytest.raises(NotImplementedError, match=message):
            grad.square().sum().backward()


# ---- module


def test_module_is_the_function() -> None:
    x = make_problem(30, 40, 8, torch.float32, bias=True)
    x.target[::3] = 7
    options: Options = {
        "ignore_index": 7,
        "label_smoothing": 0.1,
        "class_weight": some_class_weights(40),
        "softcap": 5.0,
    }
    for reduction in ("none", "mean", "sum"):
        module = LinearCrossEntropyLoss(**options, reduction=reduction)
        expected = sslkern.linear_cross_entropy(*x[:3], bias=x.bias, **options, reduction=reduction)
        assert torch.equal(module(*x[:3], x.bias), expected)
    plain = LinearCrossEntropyLoss()
    assert torch.equal(plain(*x[:3]), sslkern.linear_cross_entropy(*x[:3]))
    assert repr(plain) == (
        "LinearCrossEntropyLoss(ignore_index=-100, label_smoothing=0.0, softcap=None, "
        "reduction='mean')"
    )


def test_class_weights_of_the_module_are_a_buffer() -> None:
    module = LinearCrossEntropyLoss(class_weight=some_class_weights(40))
    assert not list(module.parameters())
    assert module.double().state_dict()["class_weight"].dtype == torch.float64
    assert module.to(torch.bfloat16).class_weight.dtype == torch.bfloat16
    other = LinearCrossEntropyLoss(class_weight=torch.ones(40))
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.class_weight, module.class_weight.float())
    assert not LinearCrossEntropyLoss().state_dict()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_smoothing": 1.1}, ValueError, r"label_smoothing to be in \[0, 1\], got 1.1"),
        ({"label_smoothing": math.nan}, ValueError, "label_smoothing to be .* got nan"),
        ({"softcap": 0.0}, ValueError, "softcap to be positive and finite, got 0.0"),
        ({"reduction": "avg"}, ValueError, "reduction to be .* got 'avg'"),
        ({"class_weight": [1.0]}, TypeError, "class_weight to be a tensor, got list"),
    ],
)
def test_module_refuses_bad_options(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^sslkern::linear_cross_entropy: expected " + message):
        LinearCrossEntropyLoss(**options)


# ---- torch integration


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("needed", ["all", "input", "weight"])
@pytest.mark.parametrize("kind", [*KINDS, "ignored", "all ignored"])
def test_opcheck(kind: str, needed: str, dtype: torch.dtype) -> None:
    x = make_problem(6, 9, 5, dtype, kind, bias=needed == "all")
    if "ignored" in kind:
        x.target[: 3 if kind == "ignored" else 6] = IGNORED
    for name, leaf in x.leaves().items():
        leaf.requires_grad_(needed in ("all", name))
    inputs = (*x[:2], x.bias, x.target, some_class_weights(9), IGNORED, 0.1, 5.0)
    torch.library.opcheck(torch.ops.sslkern.linear_cross_entropy_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_without_graph_break(kind: str, dynamic: bool) -> None:
    """Another number of rows and of ignored ones each time."""
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.linear_cross_entropy, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n, ignored in ((6, 0), (9, 2), (12, 12)):
        x = make_problem(n, n + 4, 5, torch.float32, kind)
        if kind == "index":
            x.target[:ignored] = IGNORED
        expected = evaluate(sslkern.linear_cross_entropy, x, torch.float32)
        actual = evaluate(compiled, x, torch.float32)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_every_option() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(LinearCrossEntropyLoss.forward, backend="aot_eager", fullgraph=True)
    x = make_problem(24, 33, 5, torch.float32, bias=True)
    x.target[::3] = 4
    c = some_class_weights(33)
    module = LinearCrossEntropyLoss(4, label_smoothing=0.1, class_weight=c, softcap=3.0)
    input, target = x.input.reshape(4, 6, 5), x.target.reshape(4, 6)
    results = []
    for function in (compiled, LinearCrossEntropyLoss.forward):
        leaves = [z.clone().requires_grad_() for z in (input, x.weight, x.bias)]
        loss = function(module, *leaves[:2], target, leaves[2])
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    """With ignored rows, whose number the compiler cannot know."""
    torch._dynamo.reset()
    x = make_problem(40, 33, 5, torch.float32)
    x.target[::3] = IGNORED

    def training_loss(function: Loss, i: Tensor, w: Tensor, target: Tensor) -> Tensor:
        return function(i.relu(), w * 2, target) + 1

    def results(function: Loss, loss: Loss, target: Tensor) -> list[Tensor]:
        leaves = [z.clone().requires_grad_() for z in x[:2]]
        value = function(loss, *leaves, target)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    compiled = torch.compile(training_loss, fullgraph=True)
    for target in (x.target, x.target.roll(1), torch.full((40,), IGNORED)):
        actual = results(compiled, sslkern.linear_cross_entropy, target)
        expected = results(training_loss, reference.linear_cross_entropy, target)
        for got, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("widest", ["input", "weight"])
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    x = make_problem(24, 33, 5, torch.bfloat16, bias=True)
    leaves = {name: z.clone().requires_grad_() for name, z in x.leaves().items()}
    mixed = {**leaves, widest: leaves[widest].float()}
    with autocast():
        loss = sslkern.linear_cross_entropy(**mixed, target=x.target)
    loss.backward()
    wide = {name: z.detach().float().requires_grad_() for name, z in leaves.items()}
    expected = sslkern.linear_cross_entropy(**wide, target=x.target)
    expected.backward()
    assert torch.equal(loss, expected)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert wide[name].grad is not None
        assert torch.equal(leaf.grad, wide[name].grad.bfloat16())


def test_autocast_trains_through_a_layer() -> None:
    body, head = torch.nn.Linear(5, 4), torch.nn.Linear(4, 9)
    with autocast():
        hidden = body(torch.randn(6, 5))
        loss = sslkern.linear_cross_entropy(hidden, head.weight, torch.arange(6), bias=head.bias)
    loss.backward()
    assert hidden.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    for parameter in (*body.parameters(), *head.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.linear_cross_entropy(X, W, Y).isfinite()
        assert sslkern.linear_cross_entropy(X, W, Q).isfinite()
