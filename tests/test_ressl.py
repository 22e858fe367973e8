"""ReSSL's loss against its definition, `sslkern.reference`, in float64."""

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
from torch.utils._python_dispatch import TorchDispatchMode

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate, cosine
from sslkern.losses import ReSSLLoss
from sslkern.methods import Queue

pytestmark = pytest.mark.usefixtures("backend")

OPERATOR = "info_nce"

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N queries and K rows of the queue around tiles of 96 and 288; D around vectors and strips.
SIZES = [
    (1, 1, 1),
    (1, 9, 130),
    (2, 5, 3),
    (12, 31, 33),
    (33, 96, 1),
    (97, 289, 32),
    (300, 100, 65),
]

Options = dict[str, Any]


class Inputs(NamedTuple):
    """Queries, their keys, the queue, and one upstream gradient per query."""

    query: Tensor
    key: Tensor
    queue: Tensor
    grad: Tensor


def make_inputs(n: int, k: int, d: int, dtype: torch.dtype) -> Inputs:
    """Queries that correlate with their keys; no row has unit norm."""
    g = torch.Generator().manual_seed(0)
    key, noise = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
    queue = torch.randn(k, d, generator=g, dtype=torch.float64)
    grad = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return Inputs((key + noise).to(dtype), key.to(dtype), queue.to(dtype), grad)


def evaluate(
    function: Callable[..., Tensor],
    x: Inputs,
    dtype: torch.dtype,
    temperature: float = 0.1,
    **options: object,
) -> dict[str, Tensor]:
    """The loss of every row and the gradients of the queries and the student's temperature."""
    query = x.query.to(dtype).clone().requires_grad_()
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    key, queue = x.key.to(dtype), x.queue.to(dtype)
    loss = function(query, key, queue, student_temperature=tau, reduction="none", **options)
    loss.backward(x.grad.to(loss.dtype))
    assert query.grad is not None
    assert tau.grad is not None
    return {"loss": loss.detach(), "grad_query": query.grad, "grad_temperature": tau.grad}


def assert_like_reference(
    x: Inputs,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    normalize: bool = True,
) -> None:
    """The accuracy rule for the loss and both gradients.

    The loss is the difference of a log-sum-exp and a mean logit, of the size of a logit each, and
    the gradient that of two means of rows; errors are relative to those terms. A mean under a
    softmax has the relative error of its probabilities, that of a teacher's logit times its size.
    """
    dtype = x.query.dtype
    options: Options = {"teacher_temperature": teacher_temperature, "normalize": normalize}
    actual = evaluate(sslkern.ressl_loss, x, dtype, temperature, **options)
    eager = evaluate(reference.ressl_loss, x, dtype, temperature, **options)
    exact = evaluate(reference.ressl_loss, x, torch.float64, temperature, **options)
    longest = max(float(z.double().norm(dim=1).max()) for z in x[:3])
    shortest = float(x.query.double().norm(dim=1).min())
    square = 1.0 if normalize else longest**2
    logit, teacher_logit = square / temperature, square / teacher_temperature
    beyond = max(1.0, logit / 64, teacher_logit / 64)
    upstream = float(x.grad.max()) * (1 / shortest if normalize else longest) / temperature
    terms = {
        "loss": beyond * max(1.0, logit),
        "grad_query": beyond * upstream,
        "grad_temperature": beyond * float(x.grad.sum()) * logit / temperature,
    }
    for name, expected in exact.items():
        got, plain = actual[name], eager[name]
        if name == "grad_temperature":  # float64; the work behind it is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        scale = max(terms[name], float(expected.abs().max()))
        what = f"{name}, {dtype}, {tuple(x.query.shape)}, temperature {temperature}"
        assert_accurate(got, plain, expected, what, scale=scale)


# ---- the reference itself


def test_reference_passes_gradcheck() -> None:
    x = make_inputs(3, 5, 4, torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, t: Tensor) -> Tensor:
        return reference.ressl_loss(q, x.key, x.queue, student_temperature=t)

    assert torch.autograd.gradcheck(loss, (x.query.requires_grad_(), tau))


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "d"), SIZES)
def test_matches_reference(n: int, k: int, d: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_inputs(n, k, d, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.005])
@pytest.mark.parametrize("teacher_temperature", [1.0, 0.04, 0.005])
def test_matches_reference_at_any_temperature(
    teacher_temperature: float, temperature: float, dtype: torch.dtype
) -> None:
    x = make_inputs(40, 130, 20, dtype)
    assert_like_reference(x, temperature, teacher_temperature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0])
def test_matches_reference_without_normalization(scale: float, dtype: torch.dtype) -> None:
    x = make_inputs(40, 130, 20, dtype)
    x = Inputs(*((z * scale).to(dtype) for z in x[:3]), x.grad)
    assert_like_reference(x, 0.5, 0.3, normalize=False)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_passes_gradcheck(reduction: str, normalize: bool) -> None:
    x = make_inputs(4, 6, 5, torch.float64)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return sslkern.ressl_loss(
            q,
            x.key,
            x.queue,
            student_temperature=t,
            weight=w,
            reduction=reduction,
            normalize=normalize,
        )

    inputs = (x.query.requires_grad_(), tau, x.grad.requires_grad_())
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_and_weights_match_reference(weighted: bool, reduction: str) -> None:
    x = make_inputs(50, 60, 16, torch.float64)
    options: Options = {"reduction": reduction, "weight": x.grad if weighted else None}
    actual = sslkern.ressl_loss(*x[:3], **options)
    expected = reference.ressl_loss(*x[:3], **options)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    x = make_inputs(6, 9, 8, dtype)
    query = x.query.requires_grad_()
    tau = torch.tensor([0.5], requires_grad=True)
    loss = sslkern.ressl_loss(query, x.key, x.queue, student_temperature=tau)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert query.grad is not None
    assert query.grad.dtype == dtype
    assert tau.grad is not None
    assert (tau.grad.dtype, tau.grad.shape) == (torch.float32, (1,))


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
    x = make_inputs(37, 41, 19, torch.float64)
    expected = evaluate(sslkern.ressl_loss, x, torch.float64)
    query = view(x.query).detach().requires_grad_()
    loss = sslkern.ressl_loss(query, view(x.key), view(x.queue), reduction="none")
    loss.backward(x.grad)
    assert query.grad is not None
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(query.grad, expected["grad_query"], rtol=1e-12, atol=1e-12)


# ---- queue


@pytest.mark.parametrize("dtype", DTYPES)
def test_queue_may_change_between_forward_and_backward(dtype: torch.dtype) -> None:
    """ReSSL enqueues the keys before it calls backward, as MoCo does."""
    x = make_inputs(40, 150, 33, dtype)
    expected = evaluate(sslkern.ressl_loss, x, dtype)
    query, queue = x.query.clone().requires_grad_(), x.queue.clone()
    loss = sslkern.ressl_loss(query, x.key, queue, reduction="none")
    queue.copy_(torch.randn(150, 33))
    x.key.zero_()
    loss.backward(x.grad.to(loss.dtype))
    assert query.grad is not None
    assert torch.equal(query.grad, expected["grad_query"])


def test_step_with_the_queue_of_the_package() -> None:
    x = make_inputs(5, 1, 4, torch.float32)
    queue = Queue(6, 4)
    query = x.query.clone().requires_grad_()
    expected = reference.ressl_loss(query, x.key, queue.rows.clone())
    (gradient,) = torch.autograd.grad(expected, query)
    loss = ReSSLLoss()(query, x.key, queue.rows)
    queue.enqueue(F.normalize(x.key))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(query.grad, gradient)


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
        sizes = [z.numel() for z in outputs if isinstance(z, Tensor) and not z._is_view()]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_queue_is_read_in_place(dtype: torch.dtype) -> None:
    """Nothing of N x K nor of the queue's size is made."""
    n, k, d = 8, 1000, 16
    x = make_inputs(n, k, d, dtype)
    with LargestOutput() as largest:
        sslkern.ressl_loss(x.query.requires_grad_(), x.key, x.queue).backward()
    assert 0 < largest.elements <= max(n * d, k)


def test_no_grad_gives_the_same_loss_and_forms_no_gradient() -> None:
    x = make_inputs(60, 300, 40, torch.float32)
    with_grad = sslkern.ressl_loss(x.query.clone().requires_grad_(), x.key, x.queue)
    with torch.no_grad():  # where it does not matter who requires grad
        loss = sslkern.ressl_loss(x.query.requires_grad_(), x.key.requires_grad_(), x.queue)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, with_grad.detach(), rtol=1e-6, atol=1e-6)


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("k", [1, 2, 300])
def test_identical_rows_give_log_of_their_number(
    k: int, temperature: float, dtype: torch.dtype
) -> None:
    z = torch.ones(k, 16, dtype=dtype)
    loss = sslkern.ressl_loss(z[:1], z[:1], z, student_temperature=temperature)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert abs(loss.item() - math.log(k)) < 4 * eps / temperature / 0.04


def test_one_row_has_no_loss_and_no_gradient() -> None:
    result = evaluate(sslkern.ressl_loss, make_inputs(7, 1, 5, torch.float64), torch.float64)
    assert all(value.abs().max() < 1e-12 for value in result.values())


def test_orthonormal_rows_match_closed_form() -> None:
    """Each key is a row of the queue, which gets e^a of a sum of e^a + 3, at a of 1 / 0.2."""
    z = torch.eye(4, dtype=torch.float64)
    options: Options = {"student_temperature": 0.5, "teacher_temperature": 0.2}
    own = math.exp(5) / (math.exp(5) + 3)
    expected = math.log(math.exp(2) + 3) - 2 * own
    assert sslkern.ressl_loss(z, z, z, **options).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", ["query", "key", "queue"])
def test_zero_rows_match_reference(zero: str, dtype: torch.dtype) -> None:
    """A key of zeros has the same similarity to all rows: its softmax is uniform."""
    x = make_inputs(10, 12, 6, dtype)
    getattr(x, zero)[3] = 0
    result = evaluate(sslkern.ressl_loss, x, dtype)
    exact = evaluate(reference.ressl_loss, x, torch.float64)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(
        result["loss"].double(), exact["loss"], rtol=64 * eps, atol=64 * eps / 0.1
    )
    assert result["grad_query"].isfinite().all()
    assert cosine(result["grad_query"], exact["grad_query"]) > 1 - 1e-4
    if zero == "query":
        assert result["grad_query"][3].abs().max() == 0


@pytest.mark.parametrize("name", ["query", "key", "queue"])
def test_rows_below_eps_count_as_zero(name: str) -> None:
    x = make_inputs(4, 6, 5, torch.float64)
    results = []
    for factor in (1e-14, 0.0):
        rows = {n: z.clone() for n, z in zip(("query", "key", "queue"), x[:3], strict=True)}
        rows[name][1] *= factor
        results.append(sslkern.ressl_loss(**rows))
    assert torch.equal(*results)


@pytest.mark.parametrize(("name", "size"), [("query", 1e30), ("key", 1e30), ("queue", 1e15)])
def test_row_norms_do_not_change_the_loss(name: str, size: float) -> None:
    x = make_inputs(30, 40, 64, torch.float32)
    rows = {n: z.clone() for n, z in zip(("query", "key", "queue"), x[:3], strict=True)}
    expected = sslkern.ressl_loss(**rows)
    rows[name] *= size
    torch.testing.assert_close(sslkern.ressl_loss(**rows), expected)


def test_norm_of_the_queue_that_overflows_shows() -> None:
    x = make_inputs(3, 6, 5, torch.float32)
    x.queue[2] = 1e30
    assert evaluate(sslkern.ressl_loss, x, torch.float32)["loss"].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", ["query", "key", "queue"])
def test_nan_and_infinity_show_wherever_the_reference_has_nan(
    bad: str, value: float, normalize: bool, dtype: torch.dtype
) -> None:
    x = make_inputs(6, 9, 5, dtype)
    getattr(x, bad)[2, 3] = value
    options: Options = {"normalize": normalize}
    actual = evaluate(sslkern.ressl_loss, x, dtype, **options)
    expected = evaluate(reference.ressl_loss, x, torch.float64, **options)
    assert not actual["loss"][2].isfinite()
    for name, exact in expected.items():
        assert actual[name][exact.isnan()].isnan().all(), name


# ---- properties


def test_the_order_of_the_queue_does_not_matter() -> None:
    x = make_inputs(60, 200, 12, torch.float64)
    expected = evaluate(sslkern.ressl_loss, x, torch.float64)
    flipped = evaluate(sslkern.ressl_loss, x._replace(queue=x.queue.flip(0)), torch.float64)
    for name, value in expected.items():
        torch.testing.assert_close(flipped[name], value, rtol=1e-12, atol=1e-12)


def test_gradient_is_orthogonal_to_the_row() -> None:
    """The loss does not depend on the length of a query."""
    x = make_inputs(40, 50, 10, torch.float64)
    grad = evaluate(sslkern.ressl_loss, x, torch.float64)["grad_query"]
    assert (grad * x.query).sum(1).abs().max() < 1e-12


def test_is_soft_cross_entropy_of_the_similarities() -> None:
    x = make_inputs(20, 50, 10, torch.float64)
    q, k, u = (F.normalize(z) for z in x[:3])
    expected = sslkern.soft_cross_entropy(q @ u.T, k @ u.T)
    torch.testing.assert_close(sslkern.ressl_loss(*x[:3]), expected, rtol=1e-12, atol=1e-12)


# ---- peers


def ressl_loss_func(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature_q: float = 0.1,
    temperature_k: float = 0.04,
) -> Tensor:
    """The formula of solo-learn: rows of unit norm, a queue of columns."""
    logits_q = torch.einsum("nc,ck->nk", [q, queue]) / temperature_q
    logits_k = torch.einsum("nc,ck->nk", [k, queue]) / temperature_k
    return -torch.sum(F.softmax(logits_k, dim=1) * F.log_softmax(logits_q, dim=1), dim=1).mean()


@pytest.mark.parametrize("temperatures", [(), (0.2, 0.07)])
def test_equals_solo_learn(temperatures: tuple[float, ...]) -> None:
    x = make_inputs(40, 300, 16, torch.float64)
    names = dict(zip(("student_temperature", "teacher_temperature"), temperatures, strict=False))
    results = []
    for ours in (True, False):
        query = x.query.clone().requires_grad_()
        q, k, u = (F.normalize(z) for z in (query, x.key, x.queue))
        if ours:
            loss = sslkern.ressl_loss(q, k, u, **names)
        else:
            loss = ressl_loss_func(q, k, u.T, *temperatures)
        results.append((loss.detach(), *torch.autograd.grad(loss, query)))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() / expected.abs().max() < 1e-12


# ---- determinism


@pytest.mark.cpu_only
def test_bitwise_the_same_for_any_thread_count() -> None:
    """The operator's part; what is left to torch is a few numbers per query."""
    x = make_inputs(300, 700, 70, torch.float32)
    torch.set_num_threads(1)
    expected = evaluate(sslkern.ressl_loss, x, torch.float32)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        again = evaluate(sslkern.ressl_loss, x, torch.float32)
        for name in ("loss", "grad_query"):
            assert torch.equal(again[name], expected[name])


def test_inputs_are_left_alone() -> None:
    x = make_inputs(20, 30, 7, torch.float32)
    before = [z.clone() for z in x]
    evaluate(sslkern.ressl_loss, x, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


# ---- errors

Q, K, U = torch.randn(4, 5), torch.randn(4, 5), torch.randn(7, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"query": Q[0]}, ValueError, r"query to be of shape \(N, D\) .* got shape \(5,\)"),
        ({"key": K[0]}, ValueError, r"key to be of shape \(N, D\) .* got shape \(5,\)"),
        ({"queue": U[0]}, ValueError, r"queue to be of shape \(K, D\) .* got shape \(5,\)"),
        ({"query": Q[:0], "key": K[:0]}, ValueError, r"query to be .* got shape \(0, 5\)"),
        ({"queue": U[:0]}, ValueError, r"queue to be .* got shape \(0, 5\)"),
        ({"queue": U[:, :0]}, ValueError, r"queue to be .* got shape \(7, 0\)"),
        ({"key": K[:3]}, ValueError, r"key to be of the shape of query.* got shape \(3, 5\)"),
        ({"key": K[:, :3]}, ValueError, r"key to be of the shape of query.* shape \(4, 3\)"),
        ({"queue": U[:, :3]}, ValueError, r"queue to be .* the D of query, 5.*\(7, 3\)"),
        ({"key": K.double()}, TypeError, r"key to be of the dtype .* got torch.float64"),
        ({"queue": U.half()}, TypeError, r"queue to be of the dtype .* got torch.float16"),
        ({"query": Q.long()}, TypeError, r"query to be of dtype .* got torch.int64"),
        ({"queue": U + 0j}, TypeError, r"queue to be of dtype .* got torch.complex64"),
        ({"key": K.to_sparse()}, TypeError, r"key to be a dense tensor, got layout"),
        ({"query": [1.0]}, TypeError, r"query to be a tensor, got list"),
        ({"key": None}, TypeError, r"key to be a tensor, got NoneType"),
        ({"queue": 3}, TypeError, r"queue to be a tensor, got int"),
        ({"key": K.clone().requires_grad_()}, ValueError, r"key to require no .* key.detach\(\)"),
        (
            {"queue": U.clone().requires_grad_()},
            ValueError,
            r"queue to require no .* queue.detach\(\)",
        ),
        (
            {"teacher_temperature": torch.tensor(0.1, requires_grad=True)},
            ValueError,
            r"teacher_temperature to require no .* Pass teacher_temperature.detach\(\)",
        ),
        *(
            case
            for name in ("student_temperature", "teacher_temperature")
            for case in (
                ({name: 0.0}, ValueError, name + r" to be positive and finite, got 0"),
                ({name: math.nan}, ValueError, name + r" to be positive and finite, got nan"),
                ({name: torch.ones(4)}, ValueError, name + r" to be a number .* shape \(4,\)"),
                ({name: torch.tensor(1)}, TypeError, name + r" to be of dtype"),
                ({name: "0.5"}, TypeError, name + r" to be a number .* got str"),
            )
        ),
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.arange(4)}, TypeError, r"weight to be a floating-point tensor"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::ressl: expected " + message):
        sslkern.ressl_loss(**{"query": Q, "key": K, "queue": U, **options})


def test_second_derivative_is_refused() -> None:
    query = Q.clone().requires_grad_()
    loss = sslkern.ressl_loss(query, K, U)
    (grad,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(NotImplementedError, match="expected the gradient not to be"):
        grad.square().sum().backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature"])
def test_module_refuses_temperature(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match=f"{name} to be positive and finite"):
        ReSSLLoss(**{name: temperature})


# ---- torch integration


def test_module_equals_function() -> None:
    loss = sslkern.ressl_loss(Q, K, U, student_temperature=0.2, teacher_temperature=0.05)
    loss_fn = ReSSLLoss(0.2, 0.05)
    assert torch.equal(loss_fn(Q, K, U), loss)
    assert repr(loss_fn) == "ReSSLLoss(student_temperature=0.2, teacher_temperature=0.05)"
    assert torch.equal(ReSSLLoss()(Q, K, U), sslkern.ressl_loss(Q, K, U))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.ressl_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        x = make_inputs(n, n + 4, 5, torch.float32)
        expected = evaluate(sslkern.ressl_loss, x, torch.float32, weight=x.grad)
        actual = evaluate(compiled, x, torch.float32, weight=x.grad)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        return sslkern.ressl_loss(q.relu(), k * 2, queue) + 1

    query = Q.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(query, K, U).backward()
    expected = Q.clone().requires_grad_()
    training_loss(expected, K, U).backward()
    torch.testing.assert_close(query.grad, expected.grad)


@pytest.mark.parametrize("widest", ["query", "key", "queue"])
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    rows = {"query": Q.bfloat16(), "key": K.bfloat16(), "queue": U.bfloat16()}
    mixed = {**rows, widest: rows[widest].float()}
    with autocast():
        loss = sslkern.ressl_loss(**mixed)
    wide = {name: z.float() for name, z in rows.items()}
    torch.testing.assert_close(loss, sslkern.ressl_loss(**wide), rtol=1e-6, atol=1e-6)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        query = layer(torch.randn(6, 5))
        loss = sslkern.ressl_loss(query, torch.randn(6, 4), torch.randn(9, 4))
    loss.backward()
    assert query.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.ressl_loss(Q, K, U).isfinite()
