"""Sampled logits and their losses against their definitions, `sslkern.reference`, in float64."""

from __future__ import annotations

import copy
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
from sslkern.accuracy import assert_accurate
from sslkern.losses import NegativeSamplingLoss, SampledNCELoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]

# N, K, V, D: K around the steps of 8, 4, 2 and 1 rows and the 256 samples of a task, D around
# vectors of 2 to 16 elements and the 1024 bytes that are fetched of a row.
SIZES = [
    (1, 1, 1, 1), (1, 3, 2, 3), (2, 5, 9, 2), (3, 7, 4, 8), (5, 8, 11, 15), (4, 9, 30, 16),
    (6, 15, 7, 17), (7, 21, 100, 31), (3, 16, 5, 33), (33, 6, 40, 64), (2, 256, 50, 7),
    (3, 700, 900, 40), (70, 20, 1000, 130), (9, 24, 60, 257), (5, 13, 20, 600), (40, 1, 3, 100),
]  # fmt: skip

Options = dict[str, Any]


class Inputs(NamedTuple):
    """Queries, a table, the rows that each query meets, and a gradient for each logit."""

    query: Tensor
    table: Tensor
    index: Tensor
    grad: Tensor


def make_inputs(n: int, k: int, v: int, d: int, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Logits of size 1."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(n, d, generator=g, dtype=torch.float64)
    table = torch.randn(v, d, generator=g, dtype=torch.float64) / d**0.5
    index = torch.randint(v, (n, k), generator=g)
    grad = torch.randn(n, k, generator=g, dtype=torch.float64)
    return Inputs(query.to(dtype), table.to(dtype), index, grad)


def evaluate(
    function: Callable[..., Tensor], x: Inputs, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The logits and both gradients, by name."""
    leaves = [z.to(dtype or z.dtype).clone().requires_grad_() for z in (x.query, x.table)]
    logits = function(*leaves, x.index)
    logits.backward(x.grad.to(logits.dtype))
    return {"logits": logits.detach(), "grad_query": leaves[0].grad, "grad_table": leaves[1].grad}


def assert_like_reference(x: Inputs) -> None:
    """The accuracy rule for everything; errors are relative to the terms of the sums."""
    dtype = x.query.dtype
    actual = evaluate(sslkern.sampled_logits, x)
    eager = evaluate(reference.sampled_logits, x)
    exact = evaluate(reference.sampled_logits, x, torch.float64)
    magnitudes = Inputs(x.query.abs(), x.table.abs(), x.index, x.grad.abs())
    terms = evaluate(reference.sampled_logits, magnitudes, torch.float64)
    for name, expected in exact.items():
        what = f"{name}, {dtype}, {tuple(x.index.shape)} of {tuple(x.table.shape)}"
        scale = float(terms[name].max())
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


class Problem(NamedTuple):
    """Inputs of the losses: queries, a table, one positive and K negatives each."""

    query: Tensor
    table: Tensor
    positive: Tensor
    negative: Tensor


def make_problem(
    n: int, k: int, v: int, d: int, dtype: torch.dtype, *, unit: bool = False
) -> Problem:
    """Queries that correlate with their positives; ``unit``: of norm 1, as the rows are."""
    x = make_inputs(n, k + 1, v, d, torch.float64)
    positive, negative = x.index[:, 0], x.index[:, 1:]
    query = x.query / 2 + x.table[positive]
    table = x.table
    if unit:
        query, table = F.normalize(query), F.normalize(table)
    return Problem(query.to(dtype), table.to(dtype), positive, negative)


def upstream(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.5


def evaluate_loss(
    function: Callable[..., Tensor],
    x: Problem,
    dtype: torch.dtype,
    leaves: dict[str, Tensor] | None = None,
    **options: object,
) -> dict[str, Tensor]:
    """The losses of the rows and the gradients of the matrices and of more ``leaves``, by name."""
    named = {"query": x.query.to(dtype), "table": x.table.to(dtype)} | (leaves or {})
    named = {name: z.clone().requires_grad_() for name, z in named.items()}
    loss = function(**named, positive=x.positive, negative=x.negative, reduction="none", **options)
    loss.backward(upstream(len(x.query)).to(loss.dtype))
    return {"loss": loss.detach()} | {f"grad_{name}": z.grad for name, z in named.items()}


def assert_loss_like_reference(
    name: str, x: Problem, scales: dict[str, float], leaves: dict[str, Tensor], **options: object
) -> None:
    """The accuracy rule, relative to the size of the terms where these cancel."""
    dtype = x.query.dtype
    fused, definition = getattr(sslkern, name), getattr(reference, name)
    actual = evaluate_loss(fused, x, dtype, leaves, **options)
    eager = evaluate_loss(definition, x, dtype, leaves, **options)
    exact = evaluate_loss(definition, x, torch.float64, leaves, **options)
    for quantity, expected in exact.items():
        got, plain = actual[quantity], eager[quantity]
        if quantity.removeprefix("grad_") in leaves:  # float64; the work behind them is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        scale = max(scales[quantity], float(expected.abs().max()))
        what = f"{name}, {quantity}, {dtype}, {tuple(x.negative.shape)}, {options}"
        assert_accurate(got, plain, expected, what, scale=scale)


# ---- the references themselves


def test_reference_passes_gradcheck() -> None:
    x = make_inputs(3, 4, 5, 4, torch.float64)
    leaves = (x.query.requires_grad_(), x.table.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, t: reference.sampled_logits(q, t, x.index), leaves)


def test_reference_of_negative_sampling_is_binary_cross_entropy() -> None:
    x = make_problem(7, 5, 20, 6, torch.float64)
    logits = x.query @ x.table.T
    columns = torch.cat([x.positive[:, None], x.negative], dim=1)
    target = torch.zeros(7, 6, dtype=torch.float64)
    target[:, 0] = 1
    expected = F.binary_cross_entropy_with_logits(
        logits.gather(1, columns), target, reduction="none"
    ).sum(1)
    actual = reference.negative_sampling_loss(*x, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


def original_nce(x: Problem, tau: float, z: float, noise: Tensor, eps: float) -> Tensor:
    """The formula of Wu et al. as their code has it, with its quotients."""
    p = (x.query @ x.table.T / tau).exp() / z
    k = x.negative.shape[1]
    p_positive, p_negative = p.gather(1, x.positive[:, None])[:, 0], p.gather(1, x.negative)
    n_positive, n_negative = k * noise[x.positive], k * noise[x.negative]
    data = (p_positive / (p_positive + n_positive + eps)).log()
    return -data - (n_negative / (p_negative + n_negative + eps)).log().sum(1)


@pytest.mark.parametrize("function", [sslkern.sampled_nce_loss, reference.sampled_nce_loss])
@pytest.mark.parametrize("eps", [0.0, 1e-7, 0.01])
@pytest.mark.parametrize("uniform", [True, False])
def test_nce_is_the_formula_of_the_paper(
    function: Callable[..., Tensor], uniform: bool, eps: float
) -> None:
    x = make_problem(7, 5, 20, 6, torch.float64, unit=True)
    noise = torch.full((20,), 0.05, dtype=torch.float64) if uniform else noise_of(20)
    expected = original_nce(x, 0.2, 321.0, noise, eps)
    actual = function(
        *x,
        temperature=0.2,
        log_normalizer=math.log(321.0),
        noise_probability=None if uniform else noise,
        eps=eps,
        reduction="none",
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "v", "d"), SIZES)
def test_matches_reference(n: int, k: int, v: int, d: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_inputs(n, k, v, d, dtype))


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_more_samples_than_one_part_of_the_sort(dtype: torch.dtype) -> None:
    """From 2^18 samples on several threads sort them."""
    torch.set_num_threads(3)
    assert_like_reference(make_inputs(2700, 200, 500, 3, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_for_all_samples(dtype: torch.dtype) -> None:
    x = make_inputs(200, 30, 7, 20, dtype)
    assert_like_reference(x._replace(index=torch.full_like(x.index, 6)))


def test_passes_gradcheck() -> None:
    x = make_inputs(3, 11, 5, 7, torch.float64)
    leaves = (x.query.requires_grad_(), x.table.requires_grad_())
    assert passes_gradcheck(lambda q, t: sslkern.sampled_logits(q, t, x.index), leaves)


NEGATIVE_SAMPLING_SIZES = [(1, 1, 2, 1), (3, 5, 9, 8), (40, 20, 300, 33), (5, 300, 70, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "v", "d"), NEGATIVE_SAMPLING_SIZES)
def test_negative_sampling_matches_reference(
    n: int, k: int, v: int, d: int, dtype: torch.dtype
) -> None:
    x = make_problem(n, k, v, d, dtype)
    scales = {"loss": 1.0, "grad_query": 1.0, "grad_table": 1.0}
    assert_loss_like_reference("negative_sampling_loss", x, scales, {})


def noise_of(v: int) -> Tensor:
    counts = torch.rand(v, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    return counts / counts.sum()


def nce_scales(x: Problem, temperature: float) -> dict[str, float]:
    """Sizes of the terms for unit rows: a logit of 1 / tau, an upstream gradient of at most 1.5."""
    shared = int(torch.cat([x.positive, x.negative.flatten()]).bincount().max())
    return {
        "loss": 1.0,
        "grad_query": 1.5 / temperature,
        "grad_table": shared * 1.5 / temperature,
        "grad_temperature": float(upstream(len(x.query)).sum()) / temperature**2,
        "grad_log_normalizer": float(upstream(len(x.query)).sum()),
        "grad_noise_probability": 1.0,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.02, 0.005])
@pytest.mark.parametrize(("n", "k", "v", "d"), [(1, 1, 2, 1), (3, 5, 9, 8), (40, 50, 300, 33)])
@pytest.mark.parametrize("estimate", [False, True])
def test_nce_matches_reference(
    estimate: bool, n: int, k: int, v: int, d: int, temperature: float, dtype: torch.dtype
) -> None:
    x = make_problem(n, k, v, d, dtype, unit=True)
    leaves = {"temperature": torch.tensor(temperature, dtype=torch.float64)}
    if not estimate:
        leaves["log_normalizer"] = torch.tensor(math.log(v) + 0.3, dtype=torch.float64)
    assert_loss_like_reference("sampled_nce_loss", x, nce_scales(x, temperature), leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-7, 0.01])
@pytest.mark.parametrize("noise", [0.02, noise_of(300)], ids=["number", "tensor"])
def test_noise_and_eps_match_reference(
    noise: float | Tensor, eps: float, dtype: torch.dtype
) -> None:
    x = make_problem(40, 50, 300, 33, dtype, unit=True)
    leaves = {"temperature": torch.tensor(0.1, dtype=torch.float64)}
    options: Options = {"log_normalizer": 6.0, "noise_probability": noise, "eps": eps}
    assert_loss_like_reference("sampled_nce_loss", x, nce_scales(x, 0.1), leaves, **options)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_losses_pass_gradcheck(eps: float, reduction: str) -> None:
    """Everything that may require grad does."""
    x = make_problem(3, 4, 6, 5, torch.float64, unit=True)
    parameters = [torch.tensor(v, dtype=torch.float64) for v in (0.3, 1.5)]
    inputs = (x.query, x.table, upstream(3), *parameters, noise_of(6))

    def nce(q: Tensor, t: Tensor, w: Tensor, tau: Tensor, log_z: Tensor, noise: Tensor) -> Tensor:
        return sslkern.sampled_nce_loss(
            *Problem(q, t, x.positive, x.negative),
            temperature=tau,
            log_normalizer=log_z,
            noise_probability=noise,
            eps=eps,
            weight=w,
            reduction=reduction,
        )

    def negative_sampling(q: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return sslkern.negative_sampling_loss(
            q, t, x.positive, x.negative, weight=w, reduction=reduction
        )

    leaves = [z.requires_grad_() for z in inputs]
    assert passes_gradcheck(nce, leaves)
    assert passes_gradcheck(negative_sampling, leaves[:3])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["negative_sampling_loss", "sampled_nce_loss"])
def test_reductions_and_weights_match_reference(name: str, weighted: bool, reduction: str) -> None:
    x = make_problem(20, 7, 30, 6, torch.float64, unit=True)
    options: Options = {"reduction": reduction, "weight": upstream(20) if weighted else None}
    actual, expected = (getattr(m, name)(*x, **options) for m in (sslkern, reference))
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


class OutputSizes(TorchDispatchMode):
    """Elements in each output of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {}

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple) else (result,)
        sizes = [t.numel() for t in outputs if isinstance(t, Tensor)]
        self.sizes.setdefault(func.name(), []).extend(sizes)
        return result


@pytest.mark.parametrize("name", ["negative_sampling_loss", "sampled_nce_loss"])
def test_nothing_of_the_size_of_the_gather_is_made(name: str) -> None:
    x = make_problem(6, 9, 10, 50, torch.float32)
    with OutputSizes() as outputs:
        loss = getattr(sslkern, name)(x.query.requires_grad_(), x.table.requires_grad_(), *x[2:])
        loss.backward()
    assert max(max(sizes, default=0) for sizes in outputs.sizes.values()) == x.table.numel()


@pytest.mark.parametrize("wanted", [{"query"}, {"table"}, {"query", "table"}])
def test_only_the_asked_gradient_is_computed(wanted: set[str]) -> None:
    x = make_inputs(6, 9, 10, 5, torch.float32)
    expected = evaluate(sslkern.sampled_logits, x)
    leaves = {"query": x.query.clone(), "table": x.table.clone()}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in wanted)
    with OutputSizes() as outputs:
        sslkern.sampled_logits(**leaves, index=x.index).backward(x.grad.float())
    sizes = [leaf.numel() if name in wanted else 0 for name, leaf in leaves.items()]
    assert outputs.sizes["sslkern::sampled_logits_bwd"] == sizes
    for name, leaf in leaves.items():
        assert (leaf.grad is not None) == (name in wanted)
        if leaf.grad is not None:
            assert torch.equal(leaf.grad, expected[f"grad_{name}"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    x = make_inputs(6, 9, 10, 5, dtype)
    result = evaluate(sslkern.sampled_logits, x)
    assert result["logits"].dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert result["grad_query"].dtype == result["grad_table"].dtype == dtype


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.T.contiguous().T,
        lambda z: torch.cat([z, z], dim=1)[:, : z.shape[1]],
        lambda z: torch.stack([z, z], dim=1)[:, 1],
        lambda z: torch.stack([z, z], dim=2)[:, :, 0],
        lambda z: torch.cat([torch.zeros_like(z[:1]), z])[1:],
    ],
    ids=["transposed", "row-stride", "interleaved", "column-stride", "offset"],
)
@pytest.mark.parametrize("changed", ["query", "table", "index", "grad"])
def test_views_give_the_same_numbers(changed: str, view: Callable[[Tensor], Tensor]) -> None:
    x = make_inputs(37, 13, 41, 19, torch.float32)
    expected = evaluate(sslkern.sampled_logits, x)
    inputs = x._replace(**{changed: view(getattr(x, changed)).detach()})
    leaves = [z.requires_grad_() for z in inputs[:2]]
    logits = sslkern.sampled_logits(*leaves, inputs.index)
    logits.backward(inputs.grad.float())
    assert torch.equal(logits, expected["logits"])
    for leaf, name in zip(leaves, ("grad_query", "grad_table"), strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[name])


def test_expanded_query_and_gradient() -> None:
    """Strides of 0, as `sum` and `expand` give them."""
    x = make_inputs(1, 9, 10, 5, torch.float64)
    index = x.index.expand(4, 9)
    query = x.query.requires_grad_()
    sslkern.sampled_logits(query.expand(4, 5), x.table, index).sum().backward()
    torch.testing.assert_close(query.grad, 4 * x.table[x.index[0]].sum(0, keepdim=True))


def test_no_grad_gives_the_same_logits() -> None:
    x = make_inputs(6, 9, 10, 5, torch.float32)
    with torch.no_grad():
        logits = sslkern.sampled_logits(x.query.clone().requires_grad_(), *x[1:3])
    assert not logits.requires_grad
    assert torch.equal(logits, evaluate(sslkern.sampled_logits, x)["logits"])


@pytest.mark.parametrize("changed", ["query", "table"])
def test_changing_an_input_before_backward_is_an_error(changed: str) -> None:
    """An instance memory is to be updated after the backward pass."""
    x = make_inputs(6, 9, 10, 5, torch.float32)
    leaves = {"query": x.query, "table": x.table}
    other = "table" if changed == "query" else "query"
    leaves[other].requires_grad_()
    logits = sslkern.sampled_logits(**leaves, index=x.index)
    leaves[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 16, 33, 70])
def test_integers_give_exact_results(d: int, dtype: torch.dtype) -> None:
    """Sums of small integers are exact in float32 in whatever order."""
    g = torch.Generator().manual_seed(0)
    query, table = (torch.randint(-2, 3, (n, d), generator=g) for n in (30, 9))
    index = torch.randint(9, (30, 23), generator=g)
    grad = torch.randint(-2, 3, (30, 23), generator=g)
    x = Inputs(query.to(dtype), table.to(dtype), index, grad.double())
    result = evaluate(sslkern.sampled_logits, x)
    rows = table[index]
    assert torch.equal(result["logits"].double(), (query[:, None] * rows).sum(2).double())
    grad_query = (grad[..., None] * rows).sum(1)
    assert torch.equal(result["grad_query"], grad_query.double().to(dtype))
    grad_table = torch.zeros_like(table).index_add(
        0, index.flatten(), (grad[..., None] * query[:, None]).flatten(0, 1)
    )
    assert torch.equal(result["grad_table"], grad_table.double().to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_zero_vectors_give_a_closed_form(k: int, dtype: torch.dtype) -> None:
    """(K + 1) log 2 of word2vec's first step: 4.1588830834 for K = 5."""
    x = make_problem(4, k, 10, 8, dtype)
    loss = sslkern.negative_sampling_loss(x.query, torch.zeros_like(x.table), *x[2:])
    assert loss.item() == pytest.approx((k + 1) * math.log(2), rel=1e-6)
    if k == 5 and dtype == torch.float64:
        assert loss.item() == pytest.approx(4.1588830834, abs=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [10, 1_000_000])
@pytest.mark.parametrize("k", [1, 20, 4096])
def test_uniform_model_gives_a_closed_form(k: int, v: int, dtype: torch.dtype) -> None:
    """P = 1 / V for all rows: log(K + 1) + K log((K + 1) / K), 9.3178882271 for K = 4096."""
    query, table = torch.ones(2, 1, dtype=dtype), torch.zeros(v, 1, dtype=dtype)
    index = torch.randint(v, (2, k + 1), generator=torch.Generator().manual_seed(0))
    expected = math.log(k + 1) + k * math.log((k + 1) / k)
    for log_normalizer in (None, math.log(v)):
        loss = sslkern.sampled_nce_loss(
            query, table, index[:, 0], index[:, 1:], log_normalizer=log_normalizer
        )
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        if k == 4096 and dtype == torch.float64:
            assert loss.item() == pytest.approx(9.3178882271, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_losses_stay_finite_where_the_exponential_overflows(
    size: float, dtype: torch.dtype
) -> None:
    """A logit of size s costs s where it is wrong and nothing where it is right."""
    query = torch.tensor([[size], [-size]], dtype=dtype, requires_grad=True)
    table = torch.tensor([[1.0], [0.0]], dtype=dtype)
    positive, negative = torch.tensor([0, 0]), torch.tensor([[1], [1]])
    loss = sslkern.negative_sampling_loss(query, table, positive, negative, reduction="none")
    expected = torch.tensor([math.log(2), size + math.log(2)], dtype=dtype)
    torch.testing.assert_close(loss, expected)
    nce = sslkern.sampled_nce_loss(
        query, table, positive, negative, temperature=0.1, log_normalizer=0.0, reduction="none"
    )
    right = math.log(1.5 / 0.5)  # of the negative, with P = 1 and K P_n = 1 / 2
    wrong = 10 * size + math.log(0.5) + right
    torch.testing.assert_close(nce, torch.tensor([right, wrong], dtype=dtype))
    (loss + nce).sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_equal_data_and_noise_posteriors() -> None:
    """With P = K P_n for every sample each posterior is 1/2, whatever the noise."""
    noise = noise_of(6)
    query = torch.ones(3, 1, dtype=torch.float64)
    table = (5 * noise).log()[:, None]
    index = torch.tensor([[0, 1, 2, 3, 4, 5]] * 3)
    loss = sslkern.sampled_nce_loss(
        query,
        table,
        index[:, 0],
        index[:, 1:],
        temperature=1.0,
        log_normalizer=0.0,
        noise_probability=noise,
    )
    assert loss.item() == pytest.approx(6 * math.log(2), rel=1e-12)


def test_normalizer_of_all_rows_is_the_partition_function() -> None:
    logits = make_inputs(1, 1, 50, 3, torch.float64).table[:, 0]
    estimate = sslkern.estimate_log_normalizer(logits, 50)
    assert estimate.dtype == torch.float64
    torch.testing.assert_close(estimate, logits.logsumexp(0), rtol=1e-13, atol=0)
    mean = logits.exp().mean() * 1000
    torch.testing.assert_close(sslkern.estimate_log_normalizer(logits, 1000).exp(), mean)
    far = sslkern.estimate_log_normalizer((logits + 1e4).float(), 50)
    torch.testing.assert_close(far, logits.logsumexp(0) + 1e4, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_rows_show_exactly_where_they_are_named(value: float, dtype: torch.dtype) -> None:
    x = make_inputs(40, 11, 30, 6, dtype)
    x.query.abs_()  # so that infinity minus infinity does not arise
    x.table[7, 3] = value
    named = x.index == 7
    result = evaluate(sslkern.sampled_logits, x)
    assert 0 < named.sum() < named.numel()
    assert torch.equal(result["logits"].isfinite(), ~named)
    assert torch.equal(result["grad_query"].isfinite().all(1), ~named.any(1))
    assert result["grad_table"].isfinite().all()
    expected = evaluate(reference.sampled_logits, x, torch.float64)
    assert torch.equal(result["logits"].isnan(), expected["logits"].isnan())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [1, 5, 16, 19])
def test_infinity_reaches_no_other_element(d: int, dtype: torch.dtype) -> None:
    """The last vector of a row overlaps the one before: what it reads twice must not count."""
    for column in range(d):
        query = torch.ones(1, d, dtype=dtype)
        query[0, column] = math.inf
        logits = sslkern.sampled_logits(query, torch.ones(1, d, dtype=dtype), torch.tensor([[0]]))
        assert logits.item() == math.inf


@pytest.mark.not_emulated
def test_rows_beyond_two_to_the_31_elements() -> None:
    """Most of the table is never touched, so it takes no memory."""
    storage = torch.empty(2**31 + 8, dtype=torch.bfloat16)
    table = storage.as_strided((2, 8), (2**31, 1))
    table.copy_(torch.arange(16.0).reshape(2, 8))
    logits = sslkern.sampled_logits(
        torch.ones(1, 8, dtype=torch.bfloat16), table, torch.tensor([[1, 0]])
    )
    assert logits.tolist() == [[92.0, 28.0]]


# ---- properties


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 64, 101])
def test_a_logit_does_not_depend_on_the_others(d: int, dtype: torch.dtype) -> None:
    """To the bit: whatever step of 8, 4, 2 or 1 rows it is computed in."""
    x = make_inputs(20, 15, 30, d, dtype)
    together = sslkern.sampled_logits(*x[:3])
    alone = [sslkern.sampled_logits(x.query, x.table, x.index[:, k : k + 1]) for k in range(15)]
    assert torch.equal(torch.cat(alone, dim=1), together)


def test_rows_that_are_not_named_have_no_gradient() -> None:
    x = make_inputs(6, 9, 1000, 5, torch.float32)
    grad = evaluate(sslkern.sampled_logits, x)["grad_table"]
    named = torch.zeros(1000, dtype=torch.bool)
    named[x.index.flatten()] = True
    assert grad[named].any(1).all()
    assert not grad[~named].any()


def test_a_repeated_sample_counts_as_often_as_it_occurs() -> None:
    x = make_problem(6, 1, 10, 5, torch.float64)
    once = sslkern.negative_sampling_loss(*x, reduction="none")
    negatives = x.negative.expand(6, 4)
    four = sslkern.negative_sampling_loss(*x[:3], negatives, reduction="none")
    of_positive = -F.logsigmoid((x.query * x.table[x.positive]).sum(1))
    torch.testing.assert_close(four - of_positive, 4 * (once - of_positive))


def test_the_order_of_the_negatives_does_not_matter() -> None:
    x = make_problem(6, 20, 10, 5, torch.float64)
    for loss_fn in (sslkern.negative_sampling_loss, sslkern.sampled_nce_loss):
        flipped = loss_fn(*x[:3], x.negative.flip(1))
        torch.testing.assert_close(flipped, loss_fn(*x), rtol=1e-13, atol=0)


def test_numbers_and_tensors_are_the_same_parameters() -> None:
    x = make_problem(6, 20, 10, 5, torch.float32, unit=True)
    numbers = {"temperature": 0.1, "log_normalizer": 3.0, "noise_probability": 0.1}
    expected = sslkern.sampled_nce_loss(*x, **numbers)
    for shape in ((), (1,)):
        tensors = {name: torch.full(shape, v).double() for name, v in numbers.items()}
        torch.testing.assert_close(sslkern.sampled_nce_loss(*x, **tensors), expected)
    noise = torch.full((10,), 0.1, dtype=torch.float64)
    per_row = sslkern.sampled_nce_loss(*x, **numbers | {"noise_probability": noise})
    torch.testing.assert_close(per_row, expected)


def test_the_estimate_has_no_gradient() -> None:
    x = make_problem(6, 20, 10, 5, torch.float64, unit=True)
    index = torch.cat([x.positive[:, None], x.negative], dim=1)
    log_z = sslkern.estimate_log_normalizer(sslkern.sampled_logits(*x[:2], index) / 0.07, 10)
    grads = []
    for options in ({}, {"log_normalizer": log_z}):
        query = x.query.clone().requires_grad_()
        sslkern.sampled_nce_loss(query, *x[1:], **options).backward()
        grads.append(query.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "k", "v", "d"), [(300, 30, 70, 50), (3, 900, 40, 70), (2700, 200, 500, 3)]
)
def test_bitwise_the_same_for_any_thread_count(
    n: int, k: int, v: int, d: int, dtype: torch.dtype
) -> None:
    x = make_inputs(n, k, v, d, dtype)
    torch.set_num_threads(1)
    expected = evaluate(sslkern.sampled_logits, x)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(sslkern.sampled_logits, x)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_inputs_are_left_alone() -> None:
    x = make_inputs(20, 30, 7, 9, torch.float32)
    before = [z.clone() for z in x]
    evaluate(sslkern.sampled_logits, x)
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


# ---- modules


def test_modules_equal_functions() -> None:
    x = make_problem(6, 20, 10, 5, torch.float32, unit=True)
    assert torch.equal(NegativeSamplingLoss()(*x), sslkern.negative_sampling_loss(*x))
    options: Options = {"temperature": 0.2, "noise_probability": 0.05, "eps": 0.01}
    module = SampledNCELoss(**options)
    # The first batch estimates its normaliser from itself.
    torch.testing.assert_close(module(*x), sslkern.sampled_nce_loss(*x, **options))
    assert repr(module) == "SampledNCELoss(temperature=0.2, noise_probability=0.05, eps=0.01)"
    assert SampledNCELoss().temperature == 0.07


def test_normalizer_is_frozen_at_the_first_training_batch() -> None:
    first, second = (
        make_problem(6, 20, 10, 5, torch.float32),
        make_problem(9, 20, 30, 7, torch.float32),
    )
    module = SampledNCELoss()
    module.eval()
    module(*second)
    assert module.log_normalizer.isnan()  # evaluation keeps nothing
    module.train()
    module(*first)
    index = torch.cat([first.positive[:, None], first.negative], dim=1)
    logits = (first.query.double() @ first.table.double().T / 0.07).gather(1, index)
    expected = (logits.exp().mean() * 10).log()
    torch.testing.assert_close(module.log_normalizer, expected, rtol=1e-6, atol=0)
    kept = module.log_normalizer.item()
    for mode in (True, False):
        loss = module.train(mode)(*second)
        frozen = sslkern.sampled_nce_loss(*second, log_normalizer=kept)
        torch.testing.assert_close(loss, frozen)
        assert module.log_normalizer.item() == kept
    assert not torch.isclose(frozen, sslkern.sampled_nce_loss(*second))


def test_normalizer_is_saved_and_restored() -> None:
    first, second = (make_problem(6, 20, v, 5, torch.float32) for v in (10, 30))
    module, restored = SampledNCELoss(), SampledNCELoss()
    module(*first)
    restored.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    expected = module(*second)
    for other in (restored, copied):
        assert torch.equal(other(*second), expected)
        assert torch.equal(other.log_normalizer, module.log_normalizer)
    # A state from before the first batch leaves the estimate to the next one.
    restored.load_state_dict(SampledNCELoss().state_dict())
    restored(*first)
    assert torch.equal(restored.log_normalizer, module.log_normalizer)


# ---- errors

Q, T = torch.randn(4, 5), torch.randn(9, 5)
INDEX = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 0, 0]])
POSITIVE, NEGATIVE = INDEX[:, 0], INDEX[:, 1:]


def with_value(index: Tensor, value: int) -> Tensor:
    changed = index.clone()
    changed.view(-1)[-1] = value
    return changed


MATRICES: list[tuple[Options, type[Exception], str]] = [
    ({"query": Q[0]}, ValueError, r"query to be of shape \(N, D\).*, got shape \(5,\)"),
    ({"query": Q[:0]}, ValueError, r"query to be .* got shape \(0, 5\)"),
    ({"query": Q[:, :0]}, ValueError, r"query to be .* got shape \(4, 0\)"),
    ({"query": Q.long()}, TypeError, r"query to be of dtype .* got torch.int64"),
    ({"query": Q.to_sparse()}, TypeError, r"query to be a dense tensor, got layout Sparse"),
    ({"query": [1.0]}, TypeError, r"query to be a tensor, got list"),
    ({"table": T[0]}, ValueError, r"table to be of shape \(V, D\).*, got shape \(5,\)"),
    ({"table": T[:0]}, ValueError, r"table to be .* got shape \(0, 5\)"),
    ({"table": T[:, :4]}, ValueError, r"table to be .* D of query, 5, got shape \(9, 4\)"),
    ({"table": T.double()}, TypeError, r"table to be of the dtype of query, .* got torch.float64"),
    ({"table": T.long()}, TypeError, r"table to be of dtype .* got torch.int64"),
    ({"table": None}, TypeError, r"table to be a tensor, got NoneType"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *MATRICES,
        ({"index": INDEX.int()}, TypeError, r"index to be of dtype torch.int64, got torch.int32"),
        ({"index": INDEX.float()}, TypeError, r"index to be .* got torch.float32"),
        ({"index": INDEX.to_sparse()}, TypeError, r"index to be a dense tensor, got layout Sparse"),
        ({"index": [[0]]}, TypeError, r"index to be a tensor, got list"),
        ({"index": INDEX[0]}, ValueError, r"index to be of shape \(N, K\) .* got shape \(3,\)"),
        ({"index": INDEX[:3]}, ValueError, r"index to be .* N of query, 4, .* got shape \(3, 3\)"),
        ({"index": INDEX[:, :0]}, ValueError, r"index to be .* K > 0, got shape \(4, 0\)"),
        ({"index": with_value(INDEX, 9)}, ValueError, r"index to be of values in \[0, 9\).* got 9"),
        ({"index": with_value(INDEX, -1)}, ValueError, r"index to be of values .* got -1"),
        ({"index": INDEX.to("meta")}, ValueError, r"index to be on the device of query, .* meta"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::sampled_logits: expected " + message):
        sslkern.sampled_logits(**{"query": Q, "table": T, "index": INDEX, **options})


@pytest.mark.parametrize("name", ["negative_sampling_loss", "sampled_nce_loss"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *MATRICES,
        ({"positive": POSITIVE.int()}, TypeError, r"positive to be of .*int64, got torch.int32"),
        ({"positive": [0]}, TypeError, r"positive to be a tensor, got list"),
        ({"positive": POSITIVE[:3]}, ValueError, r"positive to be .*\(4,\), got shape \(3,\)"),
        ({"positive": POSITIVE[:, None]}, ValueError, r"positive to be .* got shape \(4, 1\)"),
        ({"positive": with_value(POSITIVE, 9)}, ValueError, r"positive to be of values .* got 9"),
        ({"positive": POSITIVE.to("meta")}, ValueError, r"positive to be on the device .* meta"),
        ({"negative": NEGATIVE.int()}, TypeError, r"negative to be of .*int64, got torch.int32"),
        ({"negative": None}, TypeError, r"negative to be a tensor, got NoneType"),
        ({"negative": NEGATIVE[0]}, ValueError, r"negative to be of shape .* got shape \(2,\)"),
        ({"negative": NEGATIVE[:3]}, ValueError, r"negative to be .* got shape \(3, 2\)"),
        ({"negative": NEGATIVE[:, :0]}, ValueError, r"negative to be .* K > 0, got shape \(4, 0\)"),
        ({"negative": with_value(NEGATIVE, -2)}, ValueError, r"negative to be .* got -2"),
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": INDEX[:, 0]}, TypeError, r"weight to be a floating-point .* got torch.int64"),
        ({"weight": [1.0] * 4}, TypeError, r"weight to be a tensor, got list"),
    ],
)
def test_bad_input_of_losses_is_refused(
    name: str, options: Options, error: type[Exception], message: str
) -> None:
    good = {"query": Q, "table": T, "positive": POSITIVE, "negative": NEGATIVE}
    with pytest.raises(error, match=r"^sslkern::sampled_logits: expected " + message):
        getattr(sslkern, name)(**{**good, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, r"temperature to be positive and finite, got 0"),
        ({"temperature": math.nan}, ValueError, r"temperature to be positive and finite, got nan"),
        ({"temperature": torch.tensor(-1.0)}, ValueError, r"temperature to be positive .* got -1"),
        ({"temperature": torch.ones(4)}, ValueError, r"temperature to be .* got shape \(4,\)"),
        ({"temperature": torch.tensor(1)}, TypeError, r"temperature to be of dtype .*int64"),
        ({"temperature": "1"}, TypeError, r"temperature to be a number .* got str"),
        ({"log_normalizer": torch.ones(2)}, ValueError, r"log_normalizer to be .* shape \(2,\)"),
        ({"log_normalizer": "1"}, TypeError, r"log_normalizer to be a number .* got str"),
        ({"noise_probability": 0.0}, ValueError, r"noise_probability to be positive .* got 0"),
        (
            {"noise_probability": torch.tensor([0.1] * 8 + [-1.0])},
            ValueError,
            r"noise_probability to be positive and finite, got -1",
        ),
        ({"noise_probability": torch.ones(8)}, ValueError, r"noise_probability to be .*\(8,\)"),
        ({"noise_probability": torch.ones(9, 1)}, ValueError, r"noise_.* to be .*\(9, 1\)"),
        ({"noise_probability": INDEX[0, 0]}, TypeError, r"noise_.* to be of dtype .* torch.int64"),
        (
            {"noise_probability": torch.ones(9, device="meta")},
            ValueError,
            r"noise_probability to be on the device of table, cpu, got meta",
        ),
        ({"eps": -1e-7}, ValueError, r"eps to be a finite number .* got -1e-07"),
        ({"eps": math.nan}, ValueError, r"eps to be a finite number .* got nan"),
        ({"eps": math.inf}, ValueError, r"eps to be a finite number .* got inf"),
    ],
)
def test_bad_parameters_of_nce_are_refused(
    options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::sampled_logits: expected " + message):
        sslkern.sampled_nce_loss(Q, T, POSITIVE, NEGATIVE, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], 9), TypeError, "logits to be a tensor, got list"),
        ((INDEX, 9), TypeError, "logits to be a floating-point tensor, got torch.int64"),
        ((Q[:0], 9), ValueError, r"logits to be a tensor with elements, got shape \(0, 5\)"),
        ((Q, 0), ValueError, "rows to be positive, got 0"),
    ],
)
def test_bad_input_of_the_estimate_is_refused(
    arguments: tuple[Any, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::sampled_logits: expected " + message):
        sslkern.estimate_log_normalizer(*arguments)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": math.inf}, {"noise_probability": 0.0}],
)
def test_module_refuses_parameters(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} to be positive and finite"):
        SampledNCELoss(**options)


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (torch.ones(4, 2), ValueError, r"grad_logits to be of the shape .* got shape \(4, 2\)"),
        (torch.ones(4, 3).double(), TypeError, r"grad_logits to be of dtype torch.float32, got"),
    ],
)
def test_backward_operator_refuses_another_gradient(
    grad: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        torch.ops.sslkern.sampled_logits_bwd(grad, Q, T, INDEX, True, True)


def test_backward_operator_refuses_a_bad_index() -> None:
    bad = with_value(INDEX, 9)
    with pytest.raises(ValueError, match="index to be of values"):
        torch.ops.sslkern.sampled_logits_bwd(torch.ones(4, 3), Q, T, bad, True, True)


def test_second_derivative_is_refused() -> None:
    query = Q.clone().requires_grad_()
    logits = sslkern.sampled_logits(query, T, INDEX)
    (grad,) = torch.autograd.grad(logits.square().sum(), query, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"double backward. Use sslkern\.reference"):
        grad.square().sum().backward()


# ---- torch integration


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frozen", [None, "query", "table"])
def test_opcheck(frozen: str | None, dtype: torch.dtype) -> None:
    x = make_inputs(6, 9, 10, 5, dtype)
    inputs = (
        x.query.requires_grad_(frozen != "query"),
        x.table.requires_grad_(frozen != "table"),
        x.index,
    )
    torch.library.opcheck(torch.ops.sslkern.sampled_logits_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["negative_sampling_loss", "sampled_nce_loss"])
def test_compiles_without_graph_break(name: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    loss_fn = getattr(sslkern, name)
    compiled = torch.compile(loss_fn, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (6, 9):
        x = make_problem(n, n + 4, 12, 5, torch.float32, unit=True)
        expected = evaluate_loss(loss_fn, x, torch.float32)
        actual = evaluate_loss(compiled, x, torch.float32)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_every_option() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.sampled_nce_loss, backend="aot_eager", fullgraph=True)
    x = make_problem(6, 9, 12, 5, torch.float32, unit=True)
    leaves = {"temperature": torch.tensor(0.2), "log_normalizer": torch.tensor(3.0)}
    options: Options = {"noise_probability": noise_of(12), "eps": 1e-7, "weight": upstream(6)}
    expected = evaluate_loss(sslkern.sampled_nce_loss, x, torch.float32, leaves, **options)
    actual = evaluate_loss(compiled, x, torch.float32, leaves, **options)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiled_module_estimates_once() -> None:
    torch._dynamo.reset()
    module, expected = SampledNCELoss(), SampledNCELoss()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for v in (12, 30, 30):
        x = make_problem(6, 9, v, 5, torch.float32, unit=True)
        assert torch.equal(compiled(*x), expected(*x))
        assert torch.equal(module.log_normalizer, expected.log_normalizer)
    assert module.log_normalizer.isfinite()


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_problem(6, 9, 12, 5, torch.float32)

    def training_loss(q: Tensor, t: Tensor) -> Tensor:
        return sslkern.negative_sampling_loss(q.relu(), t * 2, x.positive, x.negative) + 1

    grads = []
    for function in (training_loss, torch.compile(training_loss, fullgraph=True)):
        leaves = [z.clone().requires_grad_() for z in x[:2]]
        function(*leaves).backward()
        grads.append([z.grad for z in leaves])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("widest", ["query", "table"])
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    x = make_inputs(6, 9, 10, 5, torch.bfloat16)
    mixed = {"query": x.query, "table": x.table}
    mixed[widest] = mixed[widest].float()
    with autocast():
        logits = sslkern.sampled_logits(**mixed, index=x.index)
    wide = sslkern.sampled_logits(x.query.float(), x.table.float(), x.index)
    assert torch.equal(logits, wide)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 5)
    table = T.clone().requires_grad_()
    with autocast():
        z = layer(Q)
        loss = sslkern.negative_sampling_loss(z, table, POSITIVE, NEGATIVE)
        loss = loss + sslkern.sampled_nce_loss(z, table, POSITIVE, NEGATIVE)
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    for leaf in (layer.weight, table):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32
        assert leaf.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.negative_sampling_loss(Q, T, POSITIVE, NEGATIVE).isfinite()
        assert SampledNCELoss()(Q, T, POSITIVE, NEGATIVE).isfinite()
