"""InfoNCE and CLIP against their definitions, `sslkern.reference`, in float64."""

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
from sslkern.accuracy import assert_accurate, cosine
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import ClipLoss, InfoNCELoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]

# N queries and M keys (or negatives) around tiles of 96, 192 and 288 and the micro-tiles of 6, 12,
# 16 and 32; D around vectors, the strip of 32 and the 256 dimensions of a pass.
SIZES = [
    (1, 1, 1), (1, 1, 130), (2, 5, 3), (2, 5, 32), (12, 31, 33), (12, 31, 257), (33, 96, 1),
    (33, 96, 130), (97, 289, 32), (97, 289, 3), (300, 100, 33), (300, 100, 257), (193, 7, 64),
    (5, 600, 31),
]  # fmt: skip

# How the columns of the softmax come about; see `make_problem`.
FORMS = ["target", "symmetric", "bank", "batch and bank"]
FORMS_AND_MATRICES = [
    *((form, name) for form in FORMS for name in ("query", "key")),
    *((form, "negatives") for form in ("bank", "batch and bank")),
]

Options = dict[str, Any]


class Inputs(NamedTuple):
    """Queries, keys, negatives if any, and one upstream gradient per query."""

    query: Tensor
    key: Tensor
    negatives: Tensor | None
    grad: Tensor

    def matrices(self) -> dict[str, Tensor]:
        named = {"query": self.query, "key": self.key, "negatives": self.negatives}
        return {name: z for name, z in named.items() if z is not None}


class Problem(NamedTuple):
    x: Inputs
    options: Options

    @property
    def columns(self) -> int:
        """Columns that may have a temperature and a bias of their own."""
        return sum(len(z) for name, z in self.x.matrices().items() if name != "query")


def make_inputs(n: int, m: int, d: int, dtype: torch.dtype, bank: int = 0, seed: int = 0) -> Inputs:
    """Queries that correlate with their keys."""
    g = torch.Generator().manual_seed(seed)
    key = torch.randn(m, d, generator=g, dtype=torch.float64)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    query = key[torch.arange(n) % m] + noise
    negatives = torch.randn(bank, d, generator=g, dtype=torch.float64).to(dtype) if bank else None
    grad = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return Inputs(query.to(dtype), key.to(dtype), negatives, grad)


def make_problem(form: str, n: int, m: int, d: int, dtype: torch.dtype) -> Problem:
    """N queries: M keys and targets among them, N keys, or N keys and M negatives."""
    if form == "target":
        target = torch.randint(m, (n,), generator=torch.Generator().manual_seed(1))
        return Problem(make_inputs(n, m, d, dtype), {"target": target})
    if form == "symmetric":
        return Problem(make_inputs(n, n, d, dtype), {"symmetric": True})
    x = make_inputs(n, n, d, dtype, bank=m)
    return Problem(x, {"in_batch": True} if form == "batch and bank" else {})


def evaluate(
    function: Callable[..., Tensor],
    x: Inputs,
    dtype: torch.dtype,
    temperature: float | Tensor = 0.1,
    bias: Tensor | None = None,
    frozen: tuple[str, ...] = (),
    **options: object,
) -> dict[str, Tensor]:
    """The loss of every row and all gradients but those of what is ``frozen``, by name."""
    leaves = {name: z.to(dtype) for name, z in x.matrices().items()}
    leaves["temperature"] = torch.as_tensor(temperature, dtype=torch.float64)
    if bias is not None:
        leaves["bias"] = bias.double()
    leaves = {name: z.clone().requires_grad_(name not in frozen) for name, z in leaves.items()}
    loss = function(**leaves, reduction="none", **options)
    loss.backward(x.grad.to(loss.dtype))
    results = {"loss": loss.detach()}
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen), name
        if leaf.grad is not None:
            results[f"grad_{name}"] = leaf.grad
    return results


def assert_like_reference(
    x: Inputs,
    temperature: float | Tensor = 0.1,
    bias: Tensor | None = None,
    **options: object,
) -> None:
    """The accuracy rule for the loss and every gradient.

    Errors are relative to the terms and not to what is left where the positive dominates and they
    cancel: 1 for the loss, |z| / tau per unit of upstream gradient for the gradients; a key has one
    from each row that has it as its target. The rule's floor is for logits up to 200;
    beyond, the rounding of a logit grows with it.
    """
    dtype = x.query.dtype
    actual = evaluate(sslkern.info_nce_loss, x, dtype, temperature, bias, **options)
    eager = evaluate(reference.info_nce_loss, x, dtype, temperature, bias, **options)
    exact = evaluate(reference.info_nce_loss, x, torch.float64, temperature, bias, **options)
    tau = torch.as_tensor(temperature, dtype=torch.float64)
    target = options.get("target")
    shared = int(target.bincount().max()) if isinstance(target, Tensor) else 1
    terms = sizes_of_terms(x, tau, options.get("normalize", True) is True, shared)
    for name, expected in exact.items():
        scale = max(terms[name], float(expected.abs().max()))
        got, plain = actual[name], eager[name]
        if name in ("grad_temperature", "grad_bias"):  # float64; the work behind them is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        what = f"{name}, {dtype}, {tuple(x.query.shape)}, temperature {float(tau.min())}"
        assert_accurate(got, plain, expected, what, scale=scale)


def sizes_of_terms(x: Inputs, tau: Tensor, normalize: bool, shared: int) -> dict[str, float]:
    norms = torch.cat([z.double().norm(dim=1) for z in x.matrices().values()])
    norm = 1.0 if normalize else float(norms.max())
    lowest, upstream = float(tau.min()), float(x.grad.max())
    beyond = max(1.0, norm**2 / lowest / 200)
    inner = beyond * upstream * norm / lowest / (float(norms.min()) if normalize else 1.0)
    total = float(x.grad.sum()) if tau.numel() == 1 else upstream
    return {
        "loss": beyond,
        "grad_query": inner,
        "grad_key": shared * inner,
        "grad_negatives": inner,
        "grad_temperature": beyond * total * norm**2 / lowest**2,
        "grad_bias": shared * beyond * upstream,
    }


def column_parameters(columns: int) -> tuple[Tensor, Tensor]:
    """A temperature and a bias for each column."""
    g = torch.Generator().manual_seed(2)
    temperature = 0.05 + torch.rand(columns, generator=g, dtype=torch.float64)
    return temperature, torch.randn(columns, generator=g, dtype=torch.float64)


# ---- the reference itself


def test_reference_passes_gradcheck() -> None:
    x = make_inputs(3, 3, 4, torch.float64, bank=2)
    temperature, bias = column_parameters(5)
    inputs = [z.requires_grad_() for z in (x.query, x.key, x.negatives, temperature, bias)]

    def loss(q: Tensor, k: Tensor, n: Tensor, t: Tensor, b: Tensor) -> Tensor:
        return reference.info_nce_loss(q, k, n, in_batch=True, temperature=t, bias=b)

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3, 1.0])
def test_reference_equals_cross_entropy(label_smoothing: float) -> None:
    x, options = make_problem("target", 7, 9, 4, torch.float64)
    logits = F.normalize(x.query) @ F.normalize(x.key).T / 0.2
    expected = F.cross_entropy(logits, options["target"], label_smoothing=label_smoothing)
    actual = reference.info_nce_loss(
        x.query, x.key, temperature=0.2, label_smoothing=label_smoothing, **options
    )
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference(form: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
    x, options = make_problem(form, n, m, d, dtype)
    assert_like_reference(x, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02, 0.005])
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference_at_any_temperature(
    form: str, temperature: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 70, 130, 40, dtype)
    assert_like_reference(x, temperature, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("form", ["target", "bank", "batch and bank"])
def test_gradient_formed_in_forward_matches_reference(
    form: str, n: int, m: int, d: int, dtype: torch.dtype
) -> None:
    """Queries and the temperature alone have a gradient: another way through the kernel."""
    x, options = make_problem(form, n, m, d, dtype)
    assert_like_reference(x, 0.05, frozen=("key", "negatives"), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("form", ["target", "bank", "batch and bank"])
def test_gradient_formed_in_forward_takes_every_option(
    form: str, temperature: float, dtype: torch.dtype
) -> None:
    frozen = ("key", "negatives", "bias")
    x, options = with_ids(form, 60, 110, 20, dtype, 7)
    options |= {"label_smoothing": 0.2, "frozen": frozen}
    assert_like_reference(x, temperature, **options)
    rescaled = {name: (z / 3).to(dtype) for name, z in x.matrices().items()}
    assert_like_reference(x._replace(**rescaled), 0.5, normalize=False, **options)
    if form != "bank":
        _, bias = column_parameters(len(options["key_ids"]))
        assert_like_reference(x, temperature, bias, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference_without_normalization(
    form: str, scale: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 50, 110, 20, dtype)
    scaled = {name: (z * scale).to(dtype) for name, z in x.matrices().items()}
    assert_like_reference(x._replace(**scaled), 0.3, normalize=False, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 5), (33, 96), (97, 289), (300, 100)])
@pytest.mark.parametrize("form", ["target", "symmetric", "batch and bank"])
def test_temperature_and_bias_per_column(form: str, n: int, m: int, dtype: torch.dtype) -> None:
    problem = make_problem(form, n, m, 33, dtype)
    temperature, bias = column_parameters(problem.columns)
    assert_like_reference(problem.x, temperature, bias, **problem.options)
    assert_like_reference(problem.x, 0.1, bias, **problem.options)
    assert_like_reference(problem.x, temperature, **problem.options)
    if form != "symmetric":  # else nothing is formed in the forward pass
        frozen = ("key", "negatives", "temperature", "bias")
        assert_like_reference(problem.x, temperature, bias, frozen=frozen, **problem.options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_smoothing", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_label_smoothing_matches_reference(
    form: str, label_smoothing: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 50, 110, 20, dtype)
    assert_like_reference(x, label_smoothing=label_smoothing, **options)


def with_ids(form: str, n: int, m: int, d: int, dtype: torch.dtype, classes: int) -> Problem:
    """A problem with equal ids in rows and columns."""
    x, options = make_problem(form, n, m, d, dtype)
    ids = torch.arange(n) % classes
    if form == "symmetric":
        return Problem(x, {**options, "ids": ids})
    columns = {"target": m, "bank": m, "batch and bank": n + m}[form]
    return Problem(x, {**options, "ids": ids, "key_ids": torch.arange(columns) % classes})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 7, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_exclusion_by_id_matches_reference(form: str, classes: int, dtype: torch.dtype) -> None:
    """With one class every row is left with its target alone."""
    x, options = with_ids(form, 60, 110, 20, dtype, classes)
    assert_like_reference(x, **options)
    assert_like_reference(x, label_smoothing=0.2, **options)


def test_in_batch_ids_serve_rows_and_columns() -> None:
    x = make_inputs(40, 40, 8, torch.float64)
    ids = torch.arange(40) // 2
    loss = sslkern.info_nce_loss(x.query, x.key, ids=ids)
    assert torch.equal(loss, sslkern.info_nce_loss(x.query, x.key, ids=ids, key_ids=ids))
    torch.testing.assert_close(loss, reference.info_nce_loss(x.query, x.key, ids=ids))


def test_ids_of_any_value() -> None:
    x = make_inputs(4, 4, 8, torch.float64)
    ids = torch.tensor([2**62, -(2**62), 2**62, 0])
    options: Options = {"ids": ids, "symmetric": True}
    expected = reference.info_nce_loss(x.query, x.key, **options)
    torch.testing.assert_close(sslkern.info_nce_loss(x.query, x.key, **options), expected)


@pytest.mark.parametrize("temperature", [0.3, 0.012])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("form", FORMS)
def test_passes_gradcheck(form: str, normalize: bool, reduction: str, temperature: float) -> None:
    x, options = make_problem(form, 4, 6, 5, torch.float64)
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    weight = (x.grad + 0.5).requires_grad_()
    names = list(x.matrices())

    def loss(t: Tensor, w: Tensor, *z: Tensor) -> Tensor:
        scaled = [v if normalize else v / 10 for v in z]
        return sslkern.info_nce_loss(
            **dict(zip(names, scaled, strict=True)),
            temperature=t,
            weight=w,
            normalize=normalize,
            reduction=reduction,
            label_smoothing=0.1,
            **options,
        )

    inputs = (tau, weight, *(z.requires_grad_() for z in x.matrices().values()))
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


def test_per_column_parameters_pass_gradcheck() -> None:
    x = make_inputs(4, 4, 5, torch.float64)
    temperature, bias = column_parameters(4)
    ids = torch.tensor([0, 1, 0, 2])

    def loss(t: Tensor, b: Tensor) -> Tensor:
        return sslkern.info_nce_loss(x.query, x.key, temperature=t, bias=b, ids=ids, symmetric=True)

    assert passes_gradcheck(loss, (temperature.requires_grad_(), bias.requires_grad_()))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_reductions_and_weights_match_reference(form: str, weighted: bool, reduction: str) -> None:
    x, options = make_problem(form, 50, 60, 16, torch.float64)
    options |= {"reduction": reduction, "weight": x.grad if weighted else None}
    actual = sslkern.info_nce_loss(*x[:3], temperature=0.2, **options)
    expected = reference.info_nce_loss(*x[:3], temperature=0.2, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("form", "wanted"), [*FORMS_AND_MATRICES, *((form, "temperature") for form in FORMS)]
)
def test_only_the_asked_gradient_is_given(form: str, wanted: str) -> None:
    x, options = make_problem(form, 6, 9, 8, torch.float64)
    everything = evaluate(sslkern.info_nce_loss, x, torch.float64, **options)
    leaves = {**x.matrices(), "temperature": torch.tensor(0.1, dtype=torch.float64)}
    leaves[wanted].requires_grad_()
    loss = sslkern.info_nce_loss(**leaves, reduction="none", **options)
    loss.backward(x.grad)
    for name, leaf in leaves.items():
        if name != wanted:
            assert leaf.grad is None
    grad = leaves[wanted].grad
    torch.testing.assert_close(grad, everything[f"grad_{wanted}"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_result_and_gradient_dtypes(form: str, dtype: torch.dtype) -> None:
    x, options = make_problem(form, 6, 9, 8, dtype)
    leaves = [z.requires_grad_() for z in x.matrices().values()]
    tau = torch.tensor(0.5, requires_grad=True)
    loss = sslkern.info_nce_loss(*leaves, temperature=tau, **options)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(z.grad is not None and z.grad.dtype == dtype for z in leaves)
    assert tau.grad is not None
    assert tau.grad.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("frozen", [(), ("key", "negatives")])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_scales_with_upstream(form: str, frozen: tuple[str, ...], scale: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x, options = make_problem(form, 20, 30, 8, torch.float32)
    options["frozen"] = frozen
    expected = evaluate(sslkern.info_nce_loss, x, torch.float32, **options)
    louder = x._replace(grad=x.grad * scale)
    scaled = evaluate(sslkern.info_nce_loss, louder, torch.float32, **options)
    for name in {"grad_query", "grad_key"} & expected.keys():
        torch.testing.assert_close(scaled[name] / scale, expected[name], rtol=1e-5, atol=1e-6)


@in_memory_layouts
@pytest.mark.parametrize("form", FORMS)
def test_views_give_the_same_numbers(form: str, view: Callable[[Tensor], Tensor]) -> None:
    x, options = make_problem(form, 37, 41, 19, torch.float32)
    expected = evaluate(sslkern.info_nce_loss, x, torch.float32, **options)
    leaves = {name: view(z).detach().requires_grad_() for name, z in x.matrices().items()}
    loss = sslkern.info_nce_loss(**leaves, reduction="none", **options)
    loss.backward(x.grad.float())
    assert torch.equal(loss, expected["loss"])
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected[f"grad_{name}"])


def test_views_of_parameters_give_the_same_numbers() -> None:
    x, options = make_problem("target", 20, 30, 8, torch.float32)
    temperature, bias = column_parameters(30)
    ids, key_ids = torch.arange(20) % 7, torch.arange(30) % 7
    parameters = {"temperature": temperature, "bias": bias, "ids": ids, "key_ids": key_ids}
    parameters |= options
    strided = {name: torch.stack([z, z], dim=1)[:, 1] for name, z in parameters.items()}
    expected = sslkern.info_nce_loss(x.query, x.key, **parameters)
    assert torch.equal(sslkern.info_nce_loss(x.query, x.key, **strided), expected)


# ---- queue


def moco_loss(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    return sslkern.info_nce_loss(query, key, queue, temperature=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_queue_may_change_between_forward_and_backward(dtype: torch.dtype) -> None:
    """MoCo enqueues the keys before it calls backward."""
    x = make_inputs(40, 40, 33, dtype, bank=150)
    assert x.negatives is not None
    query = x.query.clone().requires_grad_()
    moco_loss(query, x.key, x.negatives.clone()).backward()
    late, queue = x.query.clone().requires_grad_(), x.negatives.clone()
    loss = moco_loss(late, x.key, queue)
    queue.copy_(torch.randn(150, 33))
    loss.backward()
    assert late.grad is not None
    assert query.grad is not None
    assert torch.equal(late.grad, query.grad)


@pytest.mark.parametrize("changed", ["key", "negatives"])
def test_changing_what_needs_a_gradient_is_an_error(changed: str) -> None:
    x = make_inputs(6, 6, 5, torch.float32, bank=9 if changed == "negatives" else 0)
    inputs = x.matrices()
    inputs["query"].requires_grad_()
    inputs[changed] = inputs[changed].requires_grad_() * 1
    loss = sslkern.info_nce_loss(**inputs)
    with torch.no_grad():
        inputs[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class OutputSizes(TorchDispatchMode):
    """Elements in each output of each forward operator of InfoNCE."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.name().startswith("sslkern::info_nce_fwd"):
            self.sizes += [t.numel() for t in result if isinstance(t, Tensor)]
        return result


@pytest.mark.parametrize("wanted", [False, True])
def test_gradient_is_formed_in_forward_only_if_wanted(wanted: bool) -> None:
    x = make_inputs(6, 6, 50, torch.float32, bank=9)
    assert x.negatives is not None
    with torch.set_grad_enabled(wanted), OutputSizes() as outputs:
        moco_loss(x.query.requires_grad_(), x.key, x.negatives)
    assert outputs.sizes
    assert (max(outputs.sizes) >= 6 * 50) == wanted


def test_no_grad_gives_the_same_loss() -> None:
    x, options = make_problem("bank", 60, 300, 40, torch.float32)
    with_grad = sslkern.info_nce_loss(x.query.clone().requires_grad_(), *x[1:3], **options)
    with torch.no_grad():
        loss = sslkern.info_nce_loss(x.query.clone().requires_grad_(), *x[1:3], **options)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, with_grad.detach(), rtol=1e-6, atol=1e-6)


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("m", [1, 2, 128, 300])
def test_identical_keys_give_log_of_their_number(
    m: int, temperature: float, dtype: torch.dtype
) -> None:
    z = torch.ones(m, 16, dtype=dtype)
    tolerance = 16 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps / temperature
    options: Options = {"temperature": temperature}
    rows = sslkern.info_nce_loss(z, z, **options)
    both = sslkern.info_nce_loss(z, z, symmetric=True, **options)
    assert abs(rows.item() - math.log(m)) < tolerance
    assert abs(both.item() - math.log(m)) < tolerance
    bank = sslkern.info_nce_loss(z[:5], z[:5], z, **options)
    assert abs(bank.item() - math.log(m + 1)) < tolerance
    joined = sslkern.info_nce_loss(z[:1], z[:1], z, in_batch=True, **options)
    assert abs(joined.item() - math.log(m + 1)) < tolerance


@pytest.mark.parametrize(("n", "temperature"), [(2, 0.5), (4, 0.1), (8, 0.5)])
def test_orthonormal_rows_match_closed_form(n: int, temperature: float) -> None:
    z = torch.eye(n, dtype=torch.float64)
    expected = math.log1p((n - 1) * math.exp(-1 / temperature))
    for symmetric in (False, True):
        loss = sslkern.info_nce_loss(z, z, temperature=temperature, symmetric=symmetric)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert sslkern.clip_loss(z, z, 1 / temperature).item() == pytest.approx(expected, rel=1e-9)
    bank = sslkern.info_nce_loss(z[:1], z[:1], z[1:], temperature=temperature)
    assert bank.item() == pytest.approx(expected, rel=1e-9)


def test_one_column_has_no_loss_and_no_gradient() -> None:
    x, options = make_problem("target", 7, 1, 5, torch.float64)
    result = evaluate(sslkern.info_nce_loss, x, torch.float64, **options)
    assert all(value.abs().max() < 1e-12 for value in result.values())


def test_bank_alone_is_one_softmax_per_row() -> None:
    x, _ = make_problem("bank", 9, 20, 6, torch.float64)
    assert x.negatives is not None
    loss = sslkern.info_nce_loss(x.query, x.key, x.negatives, reduction="none")
    for i in range(9):
        columns = torch.cat([x.key[i : i + 1], x.negatives])
        target = torch.tensor([0])
        row = sslkern.info_nce_loss(x.query[i : i + 1], columns, target=target)
        torch.testing.assert_close(loss[i], row, rtol=1e-12, atol=1e-12)


def test_excluding_columns_is_deleting_them() -> None:
    x = make_inputs(1, 12, 6, torch.float64)
    ids, key_ids = torch.tensor([5]), torch.tensor([5, 1, 5, 2, 3, 5, 7, 8, 9, 5, 4, 5])
    target = torch.tensor([2])
    kept = (key_ids != 5) | (torch.arange(12) == 2)
    deleted = sslkern.info_nce_loss(x.query, x.key[kept], target=torch.tensor([1]))
    excluded = sslkern.info_nce_loss(x.query, x.key, target=target, ids=ids, key_ids=key_ids)
    torch.testing.assert_close(excluded, deleted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("form", FORMS)
def test_zero_rows_give_finite_loss_and_zero_gradient(
    form: str, temperature: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 10, 12, 6, dtype)
    for z in x.matrices().values():
        z[3] = 0
    actual = evaluate(sslkern.info_nce_loss, x, dtype, temperature, **options)
    exact = evaluate(reference.info_nce_loss, x, torch.float64, temperature, **options)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(
        actual["loss"].double(), exact["loss"], rtol=64 * eps, atol=64 * eps / temperature
    )
    for name in x.matrices():
        grad = actual[f"grad_{name}"]
        assert grad[3].abs().max() == 0
        assert grad.isfinite().all()
        assert cosine(grad, exact[f"grad_{name}"]) > 1 - 1e-4


def test_rows_below_eps_count_as_zero() -> None:
    x = make_inputs(4, 4, 6, torch.float64)
    tiny, zero = x.query.clone(), x.query.clone()
    tiny[1] *= 1e-14
    zero[1] = 0
    assert torch.equal(sslkern.info_nce_loss(tiny, x.key), sslkern.info_nce_loss(zero, x.key))


@pytest.mark.not_emulated
def test_more_than_two_to_the_31_similarities() -> None:
    """Also in the gradient: of identical rows it is zero."""
    query = torch.ones(47000, 2, requires_grad=True)
    key = torch.ones(47000, 2)
    assert len(query) * len(key) > 2**31
    loss = sslkern.info_nce_loss(query, key)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(len(key)), rel=1e-5)
    assert query.grad is not None
    assert query.grad.abs().max() < 1e-6


@pytest.mark.parametrize("size", [1e30, 1e-10])
def test_extreme_row_norms_do_not_change_the_loss(size: float) -> None:
    """Squares of 1e30 overflow float32; the norm must not."""
    x = make_inputs(30, 30, 64, torch.float32, bank=40)
    expected = sslkern.info_nce_loss(*x[:3])
    for name, z in x.matrices().items():
        scaled = {**x.matrices(), name: z * size}
        torch.testing.assert_close(sslkern.info_nce_loss(**scaled), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_dominant_pair_stays_finite(dtype: torch.dtype) -> None:
    z = torch.full((8, 4), 0.5, dtype=dtype)
    z[0] = 30.0
    x = Inputs(z, z.clone(), None, torch.ones(8, dtype=torch.float64))
    assert_like_reference(x, 0.5, normalize=False)


def test_a_row_far_below_those_beside_it_keeps_its_sum() -> None:
    """Ids leave it nothing in columns where the others have their positives, 2^288 above."""
    g = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(128, 64, generator=g))
    key = query.clone()
    key[40] = F.normalize(torch.randn(64, generator=g), dim=0)
    ids = torch.arange(128).clamp(min=63)
    options: Options = {"ids": ids, "temperature": 0.005, "symmetric": True, "reduction": "none"}
    loss = sslkern.info_nce_loss(query, key, **options)
    expected = reference.info_nce_loss(query.double(), key.double(), **options)
    assert expected[40] > 10
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-4)


def test_sums_beyond_float32s_exponents_have_gradients() -> None:
    """The log-sum-exp of every row and column is 1024 or so: for no column at all it is 0."""
    g = torch.Generator().manual_seed(0)
    image = 4 * torch.randn(65, 64, generator=g).sign().repeat_interleave(2, 0)
    image[:, 0], image[:, 1] = 4, -4
    text = image.clone()  # two are as similar to either of two images, and differ
    text[0::2, :2] += 1
    text[1::2, :2] -= 1
    grads = []
    for function, dtype in (
        (sslkern.clip_loss, torch.bfloat16),
        (reference.clip_loss, torch.float64),
    ):
        leaves = [x.to(dtype).requires_grad_() for x in (image, text, torch.ones(()))]
        function(*leaves, reduction="sum").backward()
        grads.append([x.grad.double() for x in leaves if x.grad is not None])
    assert grads[1][0].abs().max() > 0.5
    torch.testing.assert_close(*grads, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize(("form", "bad"), FORMS_AND_MATRICES)
def test_nan_shows_wherever_the_reference_has_it(
    form: str, bad: str, temperature: float, normalize: bool, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 60, 110, 6, dtype)
    x.matrices()[bad][37, 3] = math.nan
    options["normalize"] = normalize
    actual = evaluate(sslkern.info_nce_loss, x, dtype, temperature, **options)
    expected = evaluate(reference.info_nce_loss, x, torch.float64, temperature, **options)
    assert torch.equal(actual["loss"].isnan(), expected["loss"].isnan())
    for name, value in expected.items():
        assert actual[name][value.isnan()].isnan().all(), name


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("form", FORMS)
def test_infinite_input_gives_non_finite_loss(form: str, value: float, normalize: bool) -> None:
    x, options = make_problem(form, 60, 110, 6, torch.float32)
    x.query[5, 0] = value
    assert not sslkern.info_nce_loss(*x[:3], normalize=normalize, **options).isfinite()


# ---- properties


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_symmetric_is_the_mean_of_both_directions(label_smoothing: float) -> None:
    x = make_inputs(60, 60, 12, torch.float64)
    options: Options = {"label_smoothing": label_smoothing, "reduction": "none"}
    rows = sslkern.info_nce_loss(x.query, x.key, **options)
    columns = sslkern.info_nce_loss(x.key, x.query, **options)
    both = sslkern.info_nce_loss(x.query, x.key, symmetric=True, **options)
    torch.testing.assert_close(both, (rows + columns) / 2, rtol=1e-12, atol=1e-12)


def test_permuting_the_keys_moves_the_targets() -> None:
    x = make_inputs(60, 60, 12, torch.float64)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    loss = sslkern.info_nce_loss(x.query, x.key, reduction="none")
    permuted = sslkern.info_nce_loss(
        x.query, x.key[order], target=order.argsort(), reduction="none"
    )
    torch.testing.assert_close(permuted, loss, rtol=1e-12, atol=1e-12)


def test_the_order_of_the_bank_does_not_matter() -> None:
    x, _ = make_problem("bank", 60, 200, 12, torch.float64)
    assert x.negatives is not None
    flipped = sslkern.info_nce_loss(x.query, x.key, x.negatives.flip(0))
    torch.testing.assert_close(flipped, sslkern.info_nce_loss(*x[:3]), rtol=1e-12, atol=1e-12)


def test_a_common_bias_does_not_matter() -> None:
    x = make_inputs(60, 60, 12, torch.float64)
    bias = torch.full((60,), 3.0, dtype=torch.float64, requires_grad=True)
    loss = sslkern.info_nce_loss(x.query, x.key, bias=bias)
    expected = sslkern.info_nce_loss(x.query, x.key)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    assert bias.grad is not None
    assert abs(bias.grad.sum().item()) < 1e-14


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_orthogonal_to_the_row(form: str) -> None:
    """The loss does not depend on the length of a row."""
    x, options = make_problem(form, 40, 50, 10, torch.float64)
    result = evaluate(sslkern.info_nce_loss, x, torch.float64, **options)
    for name, z in x.matrices().items():
        assert (result[f"grad_{name}"] * z).sum(1).abs().max() < 1e-13 * 50


# ---- blocks of a larger matrix, whose statistics come from elsewhere


class Block(NamedTuple):
    """A block, by how much the log-sum-exps of the whole matrix are larger, and gradients."""

    query: Tensor
    key: Tensor
    scale: Tensor
    bias: Tensor | None
    query_ids: Tensor | None
    key_ids: Tensor | None
    normalize: bool
    rise: list[Tensor]
    upstream: list[Tensor]

    def numbers(self) -> tuple[Tensor | None, ...]:
        return (self.scale, self.bias, self.query_ids, self.key_ids)


def make_block(n: int, m: int, every_option: bool, normalize: bool, dtype: torch.dtype) -> Block:
    g = torch.Generator().manual_seed(3)

    def positive(count: int) -> Tensor:
        return torch.rand(count, generator=g, dtype=torch.float64)

    x = make_inputs(n, m, 33, dtype)
    query, key = (z if normalize else z / 8 for z in (x.query, x.key))
    both = [[positive(n), positive(m)] for _ in range(2)]
    if not every_option:
        ten = torch.tensor(10.0, dtype=torch.float64)
        return Block(query, key, ten, None, None, None, normalize, *both)
    ids = [torch.arange(n) % 3, torch.arange(m) % 5] if min(n, m) > 3 else [None, None]
    return Block(query, key, positive(m) * 10 + 1, positive(m), *ids, normalize, *both)


def block_by_formula(block: Block, dtype: torch.dtype) -> dict[str, Tensor]:
    """Log-sum-exps, and gradients of what the contract gives as G."""
    leaves = [block.query.to(dtype), block.key.to(dtype), block.scale, block.bias]
    query, key, scale, bias = leaves = [
        None if t is None else t.clone().requires_grad_() for t in leaves
    ]
    if block.normalize:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    s = query @ key.T * scale.to(dtype) + (0 if bias is None else bias.to(dtype))
    if block.query_ids is not None:
        s = s.masked_fill(block.query_ids[:, None] == block.key_ids, -math.inf)
    lse, lse_col = s.detach().logsumexp(1), s.detach().logsumexp(0)
    rise, rise_col = (t.to(dtype) for t in block.rise)
    g, h = (t.to(dtype) for t in block.upstream)
    p = (s.detach() - (lse + rise)[:, None]).exp()
    q = (s.detach() - (lse_col + rise_col)).exp()
    wanted = [t for t in leaves if t is not None]
    grads = torch.autograd.grad(s, wanted, g[:, None] * p + h * q)
    names = ("grad_query", "grad_key", "grad_scale", "grad_bias")
    return {"lse": lse, "lse_col": lse_col, **dict(zip(names, grads, strict=False))}


def block_by_kernel(block: Block, exact: dict[str, Tensor]) -> dict[str, Tensor]:
    lse, lse_col, *stats, _, _ = torch.ops.sslkern.info_nce_fwd(
        block.query, block.key, None, *block.numbers(), block.normalize, True, 0.0, False
    )
    for x, name, rise in zip(stats, ("lse", "lse_col"), block.rise, strict=True):
        x[:, 0] = (exact[name] + rise) / math.log(2)
    grads = torch.ops.sslkern.info_nce_bwd(
        *(t.to(lse.dtype) for t in block.upstream), block.query, block.key, None,
        *block.numbers(), *stats, block.normalize, True, 0.0,
        True, True, True, block.bias is not None,
    )  # fmt: skip
    names = ("grad_query", "grad_key", "grad_scale", "grad_bias")
    results = {"lse": lse, "lse_col": lse_col, **dict(zip(names, grads, strict=True))}
    return {name: results[name] for name in exact}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("every_option", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (33, 97), (97, 33), (300, 100), (5, 300)])
def test_symmetric_blocks_without_targets(
    n: int, m: int, every_option: bool, normalize: bool, dtype: torch.dtype
) -> None:
    """Log-sum-exps of rows and columns, and gradients from those of the whole matrix."""
    block = make_block(n, m, every_option, normalize, dtype)
    exact = block_by_formula(block, torch.float64)
    eager = block_by_formula(block, dtype)
    terms = {"grad_query": 11.0, "grad_key": 11.0, "grad_scale": float(n + m)}
    for name, actual in block_by_kernel(block, exact).items():
        got, expected = actual.reshape(exact[name].shape), exact[name]
        if name not in ("grad_query", "grad_key"):  # of the working type or more
            got = got.to(torch.promote_types(dtype, torch.float32))
        scale = max(terms.get(name, 1.0), float(expected.abs().max()))
        assert_accurate(got, eager[name].to(got.dtype), expected, name, scale=scale)


# ---- CLIP


def clip_values(
    function: Callable[..., Tensor], x: Inputs, dtype: torch.dtype, scale: float
) -> dict[str, Tensor]:
    """Loss and gradients of the features, which have unit norm, and of the scale."""
    image, text = (F.normalize(z.double()).to(x.query.dtype).to(dtype) for z in (x.query, x.key))
    leaves = {"image": image, "text": text, "scale": torch.tensor(scale, dtype=torch.float64)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = function(*leaves.values())
    loss.backward()
    results = {"loss": loss.detach()}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        results[name] = leaf.grad
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 3), (12, 33), (97, 130), (300, 257)])
def test_clip_matches_reference(n: int, d: int, scale: float, dtype: torch.dtype) -> None:
    x = make_inputs(n, n, d, dtype)
    actual = clip_values(sslkern.clip_loss, x, dtype, scale)
    eager = clip_values(reference.clip_loss, x, dtype, scale)
    exact = clip_values(reference.clip_loss, x, torch.float64, scale)
    terms = {"loss": 1.0, "image": scale / n, "text": scale / n, "scale": 1.0}
    for name, expected in exact.items():
        got, plain = actual[name], eager[name]
        if name == "scale":  # float64; the work behind it is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        size = max(terms[name], float(expected.abs().max()))
        assert_accurate(got, plain, expected, f"{name}, {dtype}, {n}x{d}", scale=size)


def test_clip_is_symmetric_info_nce_of_rows_as_they_are() -> None:
    x = make_inputs(50, 50, 8, torch.float64)
    expected = sslkern.info_nce_loss(
        x.query, x.key, temperature=0.125, symmetric=True, normalize=False
    )
    torch.testing.assert_close(sslkern.clip_loss(x.query, x.key, 8.0), expected)
    torch.testing.assert_close(sslkern.clip_loss(x.query, x.key, torch.tensor(8.0)), expected)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_clip_bias_changes_nothing_and_has_no_gradient(as_tensor: bool) -> None:
    x = make_inputs(50, 50, 8, torch.float64)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    loss = sslkern.clip_loss(x.query, x.key, 8.0, bias if as_tensor else -10.0)
    torch.testing.assert_close(loss, sslkern.clip_loss(x.query, x.key, 8.0))
    torch.testing.assert_close(loss, reference.clip_loss(x.query, x.key, 8.0, bias))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_clip_reductions(reduction: str) -> None:
    x = make_inputs(13, 13, 8, torch.float64)
    loss = sslkern.clip_loss(x.query, x.key, 8.0, reduction=reduction)
    expected = reference.clip_loss(x.query, x.key, 8.0, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    one_way = (
        sslkern.info_nce_loss(a, b, temperature=1 / 8.0, normalize=False, reduction=reduction)
        for a, b in ((x.query, x.key), (x.key, x.query))
    )
    torch.testing.assert_close(loss, sum(one_way) / 2, rtol=1e-12, atol=1e-12)


# ---- peers


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def assert_like_peer(
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


@pytest.mark.parametrize("with_negatives", [False, True])
def test_equals_info_nce_pytorch(with_negatives: bool) -> None:
    try:
        peer: Any = peers.import_peer("info-nce-pytorch", "info_nce")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    x, _ = make_problem("bank", 40, 70, 16, torch.float64)
    inputs = list(x.matrices().values())[: 3 if with_negatives else 2]
    for reduction in ("mean", "sum"):
        options: Options = {"temperature": 0.2, "reduction": reduction}
        assert_like_peer(
            lambda *z, options=options: sslkern.info_nce_loss(*z, **options),
            lambda *z, options=options: peer.info_nce(*z, **options),
            *inputs,
        )


@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_equals_open_clip(scale: float) -> None:
    try:
        peer: Any = peers.load_peer_file("open_clip_torch", "open_clip/loss.py")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    x = make_inputs(40, 40, 16, torch.float64)
    features = F.normalize(x.query), F.normalize(x.key)
    logit_scale = torch.tensor(scale, dtype=torch.float64)
    assert_like_peer(ClipLoss(), peer.ClipLoss(), *features, logit_scale)
    theirs = peer.ClipLoss()(*features, logit_scale, output_dict=True)
    ours = ClipLoss()(*features, logit_scale, output_dict=True)
    assert theirs.keys() == ours.keys()


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("frozen", [(), ("key", "negatives")])
@pytest.mark.parametrize("form", FORMS)
def test_bitwise_the_same_for_any_thread_count(
    form: str, frozen: tuple[str, ...], temperature: float
) -> None:
    x, options = make_problem(form, 300, 700, 70, torch.float32)
    options["frozen"] = frozen
    torch.set_num_threads(1)
    expected = evaluate(sslkern.info_nce_loss, x, torch.float32, temperature, **options)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(sslkern.info_nce_loss, x, torch.float32, temperature, **options)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_left_alone(form: str) -> None:
    x, options = make_problem(form, 20, 30, 7, torch.float32)
    before = [z.clone() for z in x.matrices().values()]
    evaluate(sslkern.info_nce_loss, x, torch.float32, **options)
    assert all(torch.equal(a, b) for a, b in zip(x.matrices().values(), before, strict=True))


# ---- errors

Q, K, BANK = torch.randn(4, 5), torch.randn(4, 5), torch.randn(7, 5)
INT = torch.arange(4)


def refusal(options: Options) -> Options:
    """A good call with some arguments replaced."""
    return {"query": Q, "key": K, **options}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # matrices
        ({"query": Q[0]}, ValueError, r"query to be of shape \(N, D\), got shape \(5,\)"),
        ({"key": K[0]}, ValueError, r"key to be of shape \(.*\), got shape \(5,\)"),
        (
            {"negatives": BANK[0]},
            ValueError,
            r"negatives to be of shape \(K, 5\) .* got shape \(5,",
        ),
        ({"key": K[:, :4]}, ValueError, r"key to be .* got shape \(4, 4\)"),
        ({"negatives": BANK[:, :4]}, ValueError, r"negatives to be .* got shape \(7, 4\)"),
        ({"query": Q[:0], "key": K[:0]}, ValueError, r"query to be .* got shape \(0, 5\)"),
        ({"query": Q[:, :0], "key": K[:, :0]}, ValueError, r"query to be .* got shape \(4, 0\)"),
        ({"key": K[:0]}, ValueError, r"key to be .* got 0 rows"),
        ({"key": K[:0], "target": INT}, ValueError, r"key to be .* got shape \(0, 5\)"),
        ({"negatives": BANK[:0]}, ValueError, r"negatives to be .* got shape \(0, 5\)"),
        ({"key": K.double()}, TypeError, r"key to be .* got torch.float64"),
        ({"negatives": BANK.double()}, TypeError, r"negatives to be .* got torch.float64"),
        ({"query": Q.long()}, TypeError, r"query to be of dtype .* got torch.int64"),
        ({"query": Q + 0j}, TypeError, r"query to be of dtype .* got torch.complex64"),
        ({"query": Q.to_sparse()}, TypeError, r"query to be a dense tensor, got layout Sparse"),
        ({"key": K.to_sparse()}, TypeError, r"key to be a dense tensor, got layout Sparse"),
        ({"query": [1.0]}, TypeError, r"query to be a tensor, got list"),
        ({"key": None}, TypeError, r"key to be a tensor, got NoneType"),
        ({"negatives": 3}, TypeError, r"negatives to be a tensor.*, got int"),
        # forms
        ({"in_batch": False}, ValueError, r"in_batch to be .* got False"),
        ({"key": K[:3]}, ValueError, r"key to be one row for each of the 4 .* got 3 rows"),
        ({"key": K[:3], "negatives": BANK}, ValueError, r"key to be one row .* got 3 rows"),
        ({"negatives": BANK, "target": INT}, ValueError, r"target to be None .* got"),
        ({"symmetric": True, "negatives": BANK}, ValueError, r"symmetric to be False .* got True"),
        (
            {"symmetric": True, "negatives": BANK, "in_batch": True},
            ValueError,
            r"symmetric to be False .* got True",
        ),
        ({"symmetric": True, "target": INT}, ValueError, r"symmetric to be False .* got True"),
        ({"symmetric": True, "key": K[:3]}, ValueError, r"key to be one row .* got 3 rows"),
        # target
        ({"target": torch.tensor([0, 1, 2, 4])}, ValueError, r"target to be .* got 4"),
        ({"target": torch.tensor([0, -1, 2, 3])}, ValueError, r"target to be .* got -1"),
        ({"target": INT[:3]}, ValueError, r"target to be of shape .* got shape \(3,\)"),
        ({"target": INT[:, None]}, ValueError, r"target to be of shape .* got shape \(4, 1\)"),
        ({"target": INT.float()}, TypeError, r"target to be .*torch.int64.* got torch.float32"),
        ({"target": INT.int()}, TypeError, r"target to be .*torch.int64.* got torch.int32"),
        ({"target": [0, 1, 2, 3]}, TypeError, r"target to be a tensor.*, got list"),
        # temperature, bias
        ({"temperature": 0.0}, ValueError, r"temperature to be positive and finite, got 0"),
        ({"temperature": -1}, ValueError, r"temperature to be positive and finite, got -1"),
        ({"temperature": math.nan}, ValueError, r"temperature to be positive and finite, got nan"),
        ({"temperature": math.inf}, ValueError, r"temperature to be positive and finite, got inf"),
        (
            {"temperature": torch.tensor([1.0, 0.5, 0.0, 1.0])},
            ValueError,
            r"temperature to be positive and finite, got 0",
        ),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature to be .* got shape \(3,\)"),
        (
            {"temperature": torch.ones(4, 1)},
            ValueError,
            r"temperature to be .* got shape \(4, 1\)",
        ),
        (
            {"temperature": torch.ones(7), "negatives": BANK},
            ValueError,
            r"temperature to be .* got shape \(7,\)",
        ),
        ({"temperature": torch.tensor(1)}, TypeError, r"temperature to be of dtype"),
        ({"temperature": "0.5"}, TypeError, r"temperature to be a number .* got str"),
        ({"temperature": True}, TypeError, r"temperature to be a number .* got bool"),
        ({"bias": torch.ones(3)}, ValueError, r"bias to be .* got shape \(3,\)"),
        ({"bias": torch.ones(4, 1)}, ValueError, r"bias to be .* got shape \(4, 1\)"),
        ({"bias": INT}, TypeError, r"bias to be .* got torch.int64"),
        ({"bias": 0.5}, TypeError, r"bias to be a tensor.*, got float"),
        ({"bias": torch.ones(7), "negatives": BANK}, ValueError, r"bias to be None .* got"),
        # ids
        ({"ids": INT[:3]}, ValueError, r"ids to be of shape .* got shape \(3,\)"),
        ({"ids": INT.float()}, TypeError, r"ids to be .*torch.int64.* got torch.float32"),
        ({"ids": [1]}, TypeError, r"ids to be a tensor.*, got list"),
        ({"ids": INT, "key_ids": INT[:3]}, ValueError, r"key_ids to be .* got shape \(3,\)"),
        ({"ids": INT, "key_ids": INT.int()}, TypeError, r"key_ids to be .* got torch.int32"),
        ({"key_ids": INT}, ValueError, r"key_ids to be given .* got key_ids alone"),
        ({"ids": INT, "negatives": BANK}, ValueError, r"key_ids to be given .* got ids alone"),
        (
            {"ids": INT, "negatives": BANK, "in_batch": True},
            ValueError,
            r"key_ids to be given .* got ids alone",
        ),
        (
            {"ids": INT, "key_ids": INT, "negatives": BANK},
            ValueError,
            r"key_ids to be .* got shape \(4,\)",
        ),
        # numbers
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing to be .* got -0.1"),
        ({"label_smoothing": 1.1}, ValueError, r"label_smoothing to be .* got 1.1"),
        ({"label_smoothing": math.nan}, ValueError, r"label_smoothing to be .* got nan"),
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.ones(4, 1)}, ValueError, r"weight to be of shape .* got shape \(4, 1\)"),
        ({"weight": INT}, TypeError, r"weight to be a floating-point tensor, got torch.int64"),
        ({"weight": [1.0] * 4}, TypeError, r"weight to be a tensor, got list"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::info_nce: expected " + message):
        sslkern.info_nce_loss(**refusal(options))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: (Q[0], K, 1.0), ValueError, r"image_features to be .* got shape \(5,\)"),
        (lambda: (Q, K[:3], 1.0), ValueError, r"text_features to be .* got .*3"),
        (lambda: (Q, K[:, :3], 1.0), ValueError, r"text_features to be .* got shape \(4, 3\)"),
        (lambda: (Q, K.double(), 1.0), TypeError, r"text_features to be .* got torch.float64"),
        (lambda: (Q, None, 1.0), TypeError, r"text_features to be a tensor, got NoneType"),
        (lambda: (Q, K, 0.0), ValueError, r"logit_scale to be positive and finite, got 0"),
        (lambda: (Q, K, -1.0), ValueError, r"logit_scale to be positive and finite, got -1"),
        (lambda: (Q, K, math.nan), ValueError, r"logit_scale to be positive and finite, got nan"),
        (lambda: (Q, K, torch.ones(4)), ValueError, r"logit_scale to be .* got shape \(4,\)"),
        (lambda: (Q, K, "1"), TypeError, r"logit_scale to be a number .* got str"),
    ],
)
def test_bad_clip_input_is_refused(
    call: Callable[[], tuple[Any, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::info_nce: expected " + message):
        sslkern.clip_loss(*call())


def test_second_derivative_is_refused() -> None:
    query = torch.randn(4, 5, requires_grad=True)
    for negatives in (None, BANK):
        loss = sslkern.info_nce_loss(query, K, negatives)
        (grad,) = torch.autograd.grad(loss, query, create_graph=True)
        with pytest.raises(NotImplementedError, match="sslkern::info_nce: expected the gradient"):
            grad.square().sum().backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_module_refuses_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature to be positive and finite"):
        InfoNCELoss(temperature)


def test_clip_module_refuses_processes_that_are_not_there() -> None:
    with pytest.raises(NotImplementedError, match="gather_with_grad to be True in several"):
        ClipLoss(rank=1, world_size=2)
    module = ClipLoss(gather_with_grad=True, rank=1, world_size=2)
    with pytest.raises(ValueError, match=r"world_size to be 1 where torch\.distributed is"):
        module(torch.eye(2), torch.eye(2), 2.0)


# ---- torch integration


def test_modules_equal_functions() -> None:
    x = make_inputs(7, 7, 8, torch.float32, bank=9)
    for inputs in (x[:2], x[:3]):
        expected = sslkern.info_nce_loss(*inputs, temperature=0.2)
        assert torch.equal(InfoNCELoss(0.2)(*inputs), expected)
    both = InfoNCELoss(0.2, symmetric=True)
    expected = sslkern.info_nce_loss(x.query, x.key, temperature=0.2, symmetric=True)
    assert torch.equal(both(x.query, x.key), expected)
    assert repr(both) == "InfoNCELoss(temperature=0.2, symmetric=True)"
    assert InfoNCELoss().temperature == 0.1
    scale = torch.tensor(8.0)
    clip = sslkern.clip_loss(x.query, x.key, scale)
    assert torch.equal(ClipLoss()(x.query, x.key, scale), clip)
    as_dict = ClipLoss(cache_labels=True)(x.query, x.key, scale, output_dict=True)
    assert list(as_dict) == ["contrastive_loss"]
    assert torch.equal(as_dict["contrastive_loss"], clip)


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["target", "per column", "symmetric", "no target", "formed"])
def test_opcheck(kind: str, normalize: bool, dtype: torch.dtype) -> None:
    n, m = 6, 6 if kind == "symmetric" else 9
    x = make_inputs(n, m, 5, dtype)
    query, key = x.query.requires_grad_(), x.key.requires_grad_(kind != "formed")
    temperature, bias = column_parameters(m)
    scale = temperature if kind == "per column" else torch.tensor(2.0)
    target = None if kind in ("no target", "formed") else torch.arange(n)
    ids = (None, None) if kind == "target" else (torch.arange(n) % 4, torch.arange(m) % 4)
    inputs = (
        query,
        key,
        target,
        scale.requires_grad_(),
        bias.requires_grad_() if kind == "per column" else None,
        *ids,
        normalize,
        kind == "symmetric",
        0.1,
        kind == "formed",
    )
    torch.library.opcheck(torch.ops.sslkern.info_nce_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_graph_break(form: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.info_nce_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        x, options = make_problem(form, n, n + 4, 5, torch.float32)
        expected = evaluate(sslkern.info_nce_loss, x, torch.float32, **options)
        actual = evaluate(compiled, x, torch.float32, **options)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_every_option() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.info_nce_loss, backend="aot_eager", fullgraph=True)
    x, options = with_ids("batch and bank", 6, 9, 5, torch.float32, 3)
    temperature, bias = column_parameters(15)
    options |= {"label_smoothing": 0.1, "weight": x.grad, "normalize": False}
    expected = evaluate(sslkern.info_nce_loss, x, torch.float32, temperature, bias, **options)
    actual = evaluate(compiled, x, torch.float32, temperature, bias, **options)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_inputs(6, 6, 5, torch.float32, bank=9)

    def training_loss(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        return sslkern.info_nce_loss(q.relu(), k * 2, queue, temperature=0.2) + 1

    query = x.query.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(query, *x[1:3]).backward()
    expected = x.query.clone().requires_grad_()
    training_loss(expected, *x[1:3]).backward()
    torch.testing.assert_close(query.grad, expected.grad)


@pytest.mark.not_emulated
def test_clip_compiles_without_graph_break() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.clip_loss, backend="aot_eager", fullgraph=True)
    x = make_inputs(6, 6, 5, torch.float32)
    expected = clip_values(sslkern.clip_loss, x, torch.float32, 10.0)
    actual = clip_values(compiled, x, torch.float32, 10.0)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("widest", ["query", "key", "negatives"])
def test_autocast_promotes_mixed_dtypes(widest: str) -> None:
    x = make_inputs(6, 6, 5, torch.bfloat16, bank=9)
    mixed = {**x.matrices(), widest: x.matrices()[widest].float()}
    with autocast():
        loss = sslkern.info_nce_loss(**mixed)
    wide = {name: z.float() for name, z in x.matrices().items()}
    torch.testing.assert_close(loss, sslkern.info_nce_loss(**wide), rtol=1e-6, atol=1e-6)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.info_nce_loss(z[:3], z[3:], torch.randn(9, 4))
        loss = loss + sslkern.clip_loss(z[:3], z[3:].float(), 2.0)
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.info_nce_loss(Q, K, BANK).isfinite()
        assert sslkern.clip_loss(Q, K, 2.0).isfinite()
