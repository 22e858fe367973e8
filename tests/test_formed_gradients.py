"""Gradients of `linear_cross_entropy` that its forward pass forms, a chunk of rows at a time."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate

pytestmark = pytest.mark.usefixtures("backend")

MODULE = sys.modules["sslkern.ops.linear_cross_entropy"]  # the package has the function's name
OPS = torch.ops.sslkern
OPERATOR = "linear_cross_entropy"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
IGNORED = -100

Options = dict[str, Any]


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Gradients formed at any size, so many rows at a time."""
    rows: int = request.param
    monkeypatch.setattr(MODULE, "LEAST_DIMS", 1)
    monkeypatch.setattr(MODULE, "LEAST_CHUNK", 1)
    monkeypatch.setattr(MODULE, "_rows_at_once", lambda input, weight: rows)
    return rows


def make_problem(
    n: int, v: int, d: int, dtype: torch.dtype, kind: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Leaves and targets; rows lean towards their class, and some are ignored."""
    g = torch.Generator().manual_seed(0)
    weight = F.normalize(torch.randn(v, d, generator=g, dtype=torch.float64))
    target = torch.randint(v, (n,), generator=g)
    rows = F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64)) + weight[target]
    bias = torch.randn(v, generator=g, dtype=torch.float64)
    leaves = {"input": 3 * rows, "weight": weight, "bias": bias}
    if kind == "probability":
        working = torch.promote_types(dtype, torch.float32)
        target = torch.rand(n, v, generator=g, dtype=torch.float64).to(working)
    else:
        target[1::5] = IGNORED
    return {name: z.to(dtype) for name, z in leaves.items()}, target


def gradients(
    function: Any, leaves: dict[str, Tensor], target: Tensor, dtype: torch.dtype, **options: object
) -> dict[str, Tensor]:
    """The loss, and its gradients for an upstream gradient that is not 1."""
    copies = {name: z.to(dtype).clone().requires_grad_() for name, z in leaves.items()}
    if target.is_floating_point() and dtype == torch.float64:
        target = target.double()
    loss = function(target=target, **copies, **options)
    grads = torch.autograd.grad(3 * loss, list(copies.values()))
    return {"loss": loss.detach(), **dict(zip(copies, grads, strict=True))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("kind", ["index", "probability"])
@pytest.mark.parametrize("chunks", [96, 192], indirect=True)
@pytest.mark.parametrize(("n", "v", "d"), [(5, 33, 7), (300, 97, 33), (200, 700, 130)])
def test_formed_gradients_match_reference(
    n: int,
    v: int,
    d: int,
    chunks: int,
    kind: str,
    softcap: float | None,
    reduction: str,
    dtype: torch.dtype,
) -> None:
    leaves, target = make_problem(n, v, d, dtype, kind)
    options: Options = {"softcap": softcap, "reduction": reduction, "label_smoothing": 0.1}
    actual = gradients(sslkern.linear_cross_entropy, leaves, target, dtype, **options)
    eager = gradients(reference.linear_cross_entropy, leaves, target, dtype, **options)
    exact = gradients(reference.linear_cross_entropy, leaves, target, torch.float64, **options)
    for name, expected in exact.items():
        assert_accurate(actual[name], eager[name], expected, f"{name}, {chunks} rows at a time")


@pytest.mark.parametrize("chunks", [96], indirect=True)
@pytest.mark.parametrize("length", [1.0, 60.0])
def test_formed_gradients_are_those_of_the_other_way(
    length: float, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a shift of the exponentials."""
    leaves, target = make_problem(250, 400, 40, torch.float64, "index")
    leaves["weight"] *= length
    formed = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float64)
    monkeypatch.setattr(MODULE, "_rows_at_once", lambda input, weight: 0)
    recomputed = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float64)
    for name, expected in recomputed.items():
        torch.testing.assert_close(formed[name], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("chunks", [96], indirect=True)
@pytest.mark.parametrize("needed", ["input", "weight", "bias"])
def test_one_gradient_alone(needed: str, chunks: int) -> None:
    leaves, target = make_problem(200, 50, 12, torch.float32, "index")
    everything = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float32)
    leaves[needed] = leaves[needed].clone().requires_grad_()
    loss = sslkern.linear_cross_entropy(target=target, **leaves)
    (grad,) = torch.autograd.grad(3 * loss, leaves[needed])
    torch.testing.assert_close(grad, everything[needed])


def scaled_gradients(leaves: dict[str, Tensor], target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Those of a loss that is multiplied by a loss scale, and what they should be."""
    leaves = {name: z.requires_grad_() for name, z in leaves.items()}
    exact = {name: z.detach().double().requires_grad_() for name, z in leaves.items()}
    (3 * 65536 * sslkern.linear_cross_entropy(target=target, **leaves)).backward()
    (3 * 65536 * reference.linear_cross_entropy(target=target, **exact)).backward()
    return {name: (leaf.grad.double(), exact[name].grad) for name, leaf in leaves.items()}


@pytest.mark.cpu_only
@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_formed_gradients_are_rounded_once(chunks: int) -> None:
    """They stay float32 until the upstream gradient, here a loss scale, has multiplied them.

    CUDA kernels round the gradients of logits, too: matrix instructions take halves.
    """
    grads = scaled_gradients(*make_problem(250, 300, 16, torch.float16, "index"))
    for name, (actual, expected) in grads.items():
        once = 2**-11 * expected.abs() + 1e-5 * expected.abs().max()
        assert ((actual - expected).abs() <= once).all(), name


@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_formed_gradients_are_rounded_with_those_of_logits_alone(chunks: int) -> None:
    """Besides the roundings above, one of each gradient of a logit."""
    leaves, target = make_problem(250, 300, 16, torch.float16, "index")
    x, w, bias = (leaves[name].double() for name in ("input", "weight", "bias"))
    kept = target != IGNORED
    logits = torch.softmax(x @ w.T + bias, 1) - F.one_hot(target.clamp_min(0), 300)
    logits = 3 * 65536 * (logits * kept[:, None]).abs() / kept.sum()
    sizes = {"input": logits @ w.abs(), "weight": logits.T @ x.abs(), "bias": 0}
    for name, (actual, expected) in scaled_gradients(leaves, target).items():
        rounded = 2**-11 * (expected.abs() + sizes[name]) + 1e-5 * expected.abs().max()
        assert ((actual - expected).abs() <= rounded).all(), name


@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_all_rows_ignored(chunks: int) -> None:
    leaves, target = make_problem(10, 8, 4, torch.float32, "index")
    target.fill_(IGNORED)
    results = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float32)
    assert all((z == 0).all() for z in results.values())


@pytest.mark.cpu_only
@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_bitwise_the_same_for_any_thread_count(chunks: int) -> None:
    leaves, target = make_problem(400, 700, 70, torch.float32, "index")
    torch.set_num_threads(1)
    expected = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float32)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        again = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float32)
        assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_nothing_is_formed_that_nobody_needs(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, target = make_problem(10, 8, 4, torch.float32, "index")
    leaves = {name: z.requires_grad_() for name, z in leaves.items()}
    with torch.no_grad():
        loss = sslkern.linear_cross_entropy(target=target, **leaves)
    assert loss.grad_fn is None
    name = sslkern.linear_cross_entropy(target=target, **leaves, reduction="sum").grad_fn.name()
    assert "sum_fwd" in name
    rows = sslkern.linear_cross_entropy(target=target, **leaves, reduction="none")
    rows.backward(torch.linspace(1, 2, 10))  # of each row: recomputed
    assert leaves["input"].grad.isfinite().all()


def test_few_dimensions_or_rows_do_not_form() -> None:
    at_once = MODULE._rows_at_once
    wide, narrow = MODULE.LEAST_DIMS, MODULE.LEAST_DIMS - 1
    weight = torch.empty(30522, wide)
    assert at_once(torch.empty(1000, narrow), weight[:, :-1]) == 0
    assert at_once(torch.empty(1000, wide), weight) == 1056
    rows = at_once(torch.empty(5000, wide), weight)
    assert rows % 96 == 0
    assert rows * 30522 * 4 <= MODULE.KEPT_BYTES
    huge = torch.empty(1, wide).expand(1_000_000, wide)
    assert at_once(torch.empty(5000, wide), huge) == 0


@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_second_derivative_raises(chunks: int) -> None:
    leaves, target = make_problem(10, 8, 4, torch.float32, "index")
    leaves = {name: z.requires_grad_() for name, z in leaves.items()}
    loss = sslkern.linear_cross_entropy(target=target, **leaves)
    grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.linear_cross_entropy"):
        sum(g.square().sum() for g in grads).backward()


def test_a_needed_gradient_that_is_not_formed_raises() -> None:
    leaves, target = make_problem(10, 8, 4, torch.float32, "index")
    weight = leaves["weight"].requires_grad_()
    inputs = (leaves["input"], weight, None, target, None, IGNORED, 0.0, 0.0)
    with pytest.raises(ValueError, match="form_weight to be True where weight requires grad"):
        OPS.linear_cross_entropy_sum_fwd(*inputs, 96, True, False, False)
    with pytest.raises(ValueError, match="chunk to be positive, got 0"):
        OPS.linear_cross_entropy_sum_fwd(*inputs, 0, True, True, False)
    with pytest.raises(ValueError, match="form_bias to be False without bias, got True"):
        OPS.linear_cross_entropy_sum_fwd(*inputs, 96, True, True, True)


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    leaves, target = make_problem(10, 8, 4, dtype, "index")
    tensors = [z.requires_grad_() for z in leaves.values()]
    options = (target, None, IGNORED, 0.1, 5.0, 96, True, True, True)
    torch.library.opcheck(OPS.linear_cross_entropy_sum_fwd, (*tensors, *options))


@pytest.mark.not_emulated
@pytest.mark.parametrize("chunks", [96], indirect=True)
def test_compiles_without_graph_break(chunks: int) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.linear_cross_entropy, backend="aot_eager", fullgraph=True)
    leaves, target = make_problem(100, 30, 8, torch.float32, "index")
    expected = gradients(sslkern.linear_cross_entropy, leaves, target, torch.float32)
    actual = gradients(compiled, leaves, target, torch.float32)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
