"""Sinkhorn-Knopp against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import autocast
from torch import Tensor

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import SinkhornKnopp
from sslkern.verification.terms import LARGEST_LOGIT_APART

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# B rows of K prototypes: B around groups of 4 rows, chunks of 8 and 64 of those; K around vectors
# of 2 to 16 elements, parts of 256 and blocks of 1024.
SIZES = [
    (1, 1), (1, 5), (2, 3), (3, 4), (4, 15), (5, 16), (7, 17), (8, 64), (9, 33), (5, 255),
    (6, 256), (7, 257), (3, 1023), (3, 1024), (3, 1025), (2, 2048), (2, 3001), (33, 130),
    (511, 7), (512, 8), (513, 9), (1030, 3),
]  # fmt: skip

# What is asked for beside the scores. "plain" is what has exponentials kept in the plan's memory.
FORMS = ["plain", "queue", "marginal", "weight", "problems", "everything", "probabilities"]

Options = dict[str, Any]
INF = math.inf


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """More cost time at most sizes here; the tests of threads ask for theirs."""
    torch.set_num_threads(1)


def cosines(*shape: int, seed: int = 0) -> Tensor:
    """Scores in [-1, 1] with columns that differ in size, so that there is something to balance."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(*shape, generator=g, dtype=torch.float64)
    popular = torch.randn(shape[-1], generator=g, dtype=torch.float64)
    return ((scores + popular) / 4).clamp(-1, 1)


def power_law(k: int, exponent: float = 0.5) -> Tensor:
    """Shares of prototypes as in VISSL."""
    share = torch.arange(1, k + 1, dtype=torch.float64) ** -exponent
    return share / share.sum()


def some_weights(n: int) -> Tensor:
    """Of every size, also none."""
    return torch.tensor([1.0, 0.3, 0.0, 5.0, 1e-6], dtype=torch.float64).repeat(n)[:n]


def make_problem(form: str, b: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Options]:
    """Scores, and the options of a form."""
    scores, options = cosines(b, k), Options()
    rows = b
    if form in ("problems", "everything"):
        scores = cosines(3, b, k)
    if form in ("queue", "everything"):
        rows += b // 2 + 1
        shape = (*scores.shape[:-2], b // 2 + 1, k)
        options["queue"] = cosines(*shape, seed=1).to(dtype)
    if form in ("marginal", "everything"):
        options["prototype_marginal"] = power_law(k)
    if form in ("weight", "everything"):
        options["row_weight"] = some_weights(rows)
    if form == "probabilities":
        options["from_probabilities"] = True
        scores = sharpened(scores)
    return scores.to(dtype), options


def sharpened(scores: Tensor) -> Tensor:
    """Probabilities as MSN makes them, zeros among them, though not all of a row or column."""
    p = (scores / 0.4).softmax(-1) ** 2  # no smaller than what float16 can tell from zero
    p[..., 1::2, 1::2] = 0
    return p / p.sum(-1, keepdim=True)


def double(options: Options) -> Options:
    """The same for the reference in float64."""
    return {name: x.double() if isinstance(x, Tensor) else x for name, x in options.items()}


def evaluate(function: Callable[..., Any], scores: Tensor, **options: Any) -> dict[str, Tensor]:
    plan, (g, f) = function(scores, return_potentials=True, **options)
    return {"plan": plan, "prototype": g, "row": f}


def assert_like_reference(
    scores: Tensor, epsilon: float = 0.05, iterations: int = 3, **options: Any
) -> None:
    """The accuracy rule for the plan and both potentials.

    The errors of potentials are relative to the exponents that they are sums of; those of a plan
    grow with them beyond what the rule's floor is for. Each iteration starts from the roundings of
    the one before, of which a constant of all potentials stays for good.
    """
    dtype = scores.dtype
    options["iterations"] = iterations
    if not options.get("from_probabilities"):
        options["epsilon"] = epsilon
    actual = evaluate(sslkern.sinkhorn, scores, **options)
    eager = evaluate(reference.sinkhorn, scores, **options)
    exact = evaluate(reference.sinkhorn, scores.double(), **double(options))
    working = torch.promote_types(dtype, torch.float32)
    exponent = max(1.0, float(scores[scores.isfinite()].abs().max()) / epsilon)
    growth = max(1.0, iterations / 10)
    for name, expected in exact.items():
        got, scale = actual[name], float(expected[expected.isfinite()].abs().max())
        if name != "plan":  # float64; the work behind it is not
            assert got.dtype == torch.float64
            got, scale = got.to(working), max(exponent, scale) * growth
        elif dtype == working:
            scale *= max(1.0, exponent / LARGEST_LOGIT_APART) * growth
        what = f"{name}, {dtype}, {tuple(scores.shape)}, {sorted(options)}"
        assert_accurate(got, eager[name], expected, what, scale=scale)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Relative to the largest element."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.abs().max()


# ---- forward


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference(form: str, b: int, k: int, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, b, k, dtype)
    assert_like_reference(scores, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference_in_rows_longer_than_a_block_holds(form: str, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 3, 4101, dtype)
    assert_like_reference(scores, **options)
    hard = sslkern.sinkhorn(scores, hard=True, **options)
    soft = sslkern.sinkhorn(scores, **options)
    assert ((hard == 0) | (hard == 1)).all()
    assert torch.equal((hard.double() * soft.double()).sum(-1), soft.double().amax(-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.03, 0.005])
@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 10, 100])
@pytest.mark.parametrize("form", ["plain", "everything"])
def test_matches_reference_at_any_epsilon(
    form: str, iterations: int, epsilon: float, dtype: torch.dtype
) -> None:
    scores, options = make_problem(form, 40, 70, dtype)
    assert_like_reference(scores, epsilon, iterations=iterations, **options)
    assert sslkern.sinkhorn(scores, epsilon, iterations, **options).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 10, 100])
def test_probabilities_match_reference_after_any_iteration(
    iterations: int, dtype: torch.dtype
) -> None:
    scores, options = make_problem("probabilities", 40, 70, dtype)
    assert (scores == 0).any()
    assert_like_reference(scores, iterations=iterations, **options)


def test_probabilities_are_exponentials_of_their_logarithms() -> None:
    p = sharpened(cosines(40, 70))
    expected = sslkern.sinkhorn(p.log(), epsilon=1.0)
    close(sslkern.sinkhorn(p, from_probabilities=True), expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("problems", [1, 2, 3, 7])
@pytest.mark.parametrize("form", ["plain", "everything"])
def test_problems_are_independent(form: str, problems: int, threads: int) -> None:
    """Fewer of them than threads, which then work on each together, and more; bitwise."""
    b, k = 300, 400
    _, options = make_problem(form, b, k, torch.float32)
    scores = cosines(problems, b, k).float()
    if form == "everything":
        options |= {
            "queue": cosines(problems, 70, k, seed=1).float(),
            "row_weight": torch.rand(problems, b + 70) + 0.1,
            "prototype_marginal": torch.stack([power_law(k, i / 3) for i in range(problems)]),
        }
    torch.set_num_threads(threads)
    together = sslkern.sinkhorn(
        scores, return_potentials=True, return_diagnostics=True, tolerance=1.0, **options
    )
    for i in range(problems):
        own = {name: x[i] for name, x in options.items()}
        alone = sslkern.sinkhorn(
            scores[i], return_potentials=True, return_diagnostics=True, tolerance=1.0, **own
        )
        assert torch.equal(together[0][i], alone[0])
        for group, one in zip(together[1:], alone[1:], strict=True):
            assert all(torch.equal(x[i], y) for x, y in zip(group, one, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shares_of_all_problems_may_be_given_once(dtype: torch.dtype) -> None:
    scores = cosines(3, 20, 9).to(dtype)
    options = {"prototype_marginal": power_law(9), "row_weight": some_weights(20)}
    each = {name: x.repeat(3, 1) for name, x in options.items()}
    expected = sslkern.sinkhorn(scores, **each)
    assert torch.equal(sslkern.sinkhorn(scores, **options), expected)
    assert_like_reference(scores, **options)
    assert_like_reference(scores, **each)


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_queue_is_none(dtype: torch.dtype) -> None:
    scores = cosines(20, 9).to(dtype)
    expected = sslkern.sinkhorn(scores)
    assert torch.equal(sslkern.sinkhorn(scores, queue=scores[:0]), expected)
    several = scores.repeat(2, 1, 1)
    assert torch.equal(sslkern.sinkhorn(several, queue=several[:, :0]), expected.repeat(2, 1, 1))


@pytest.mark.parametrize("queued", [1, 8, 100])
def test_queue_is_more_rows_that_are_not_returned(queued: int) -> None:
    everything = cosines(30 + queued, 50)
    expected = sslkern.sinkhorn(everything)[:30]
    close(sslkern.sinkhorn(everything[:30], queue=everything[30:]), expected)
    p = sharpened(everything)
    expected = sslkern.sinkhorn(p, from_probabilities=True)[:30]
    close(sslkern.sinkhorn(p[:30], queue=p[30:], from_probabilities=True), expected)


@pytest.mark.parametrize("probabilities", [False, True])
def test_weights_are_numbers_of_rows(probabilities: bool) -> None:
    scores = sharpened(cosines(12, 30)) if probabilities else cosines(12, 30)
    options = {"from_probabilities": probabilities}
    count = torch.tensor([1, 2, 3, 0] * 3)
    expected = sslkern.sinkhorn(scores.repeat_interleave(count, 0), **options)
    plan = sslkern.sinkhorn(scores, row_weight=count.double() / 7, **options)
    close(plan.repeat_interleave(count, 0), expected)


def test_equal_shares_and_weights_are_the_default() -> None:
    scores = cosines(20, 16)
    expected = sslkern.sinkhorn(scores)
    equal = sslkern.sinkhorn(
        scores, prototype_marginal=torch.full((16,), 1 / 16), row_weight=torch.full((20,), 0.5)
    )
    close(equal, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shares_of_any_dtype(dtype: torch.dtype) -> None:
    scores = cosines(20, 16).float()
    marginal = torch.tensor([1 / 8, 1 / 24] * 6 + [0.0] * 4).to(dtype)
    marginal = (marginal + 1 / 128 * (marginal == 0))[:16].to(dtype)
    marginal[0] += 1 - marginal.double().sum()
    weight = torch.linspace(0, 1, 20).to(dtype)
    options = {"prototype_marginal": marginal, "row_weight": weight}
    actual = sslkern.sinkhorn(scores, **options)
    assert torch.equal(actual, sslkern.sinkhorn(scores, **double(options)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_result_dtypes_and_shapes(form: str, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 6, 9, dtype)
    each = scores.shape[:-2]
    plan, (g, f), (error, usage, entropy) = sslkern.sinkhorn(
        scores, return_potentials=True, return_diagnostics=True, **options
    )
    assert (plan.dtype, plan.shape) == (dtype, scores.shape)
    for result, shape in (
        (g, (*each, 9)), (f, (*each, 6)), (error, each), (usage, (*each, 9)), (entropy, each)
    ):  # fmt: skip
        assert (result.dtype, result.shape) == (torch.float64, shape)


@pytest.mark.parametrize("wanted", [(), ("potentials",), ("diagnostics",)])
def test_asking_for_more_changes_nothing(wanted: tuple[str, ...]) -> None:
    scores = cosines(50, 300).float()
    options = {f"return_{name}": True for name in wanted}
    results = sslkern.sinkhorn(scores, **options)
    plan = results[0] if wanted else results
    everything = sslkern.sinkhorn(scores, return_potentials=True, return_diagnostics=True)
    assert torch.equal(plan, everything[0])
    if wanted:
        which = 1 if "potentials" in wanted else 2
        assert all(torch.equal(a, b) for a, b in zip(results[1], everything[which], strict=True))


# ---- both ways to iterate: exponentials kept in the plan's memory, and the log domain


def in_log_domain(scores: Tensor, **options: Any) -> Tensor:
    """Scores that the plan replaces cannot be read again from memory with exponentials."""
    own = scores.clone()
    plan: Tensor = sslkern.sinkhorn(own, out=own, **options)
    return plan


def of_range(below: float, above: float, dtype: torch.dtype) -> Tensor:
    """Scores whose exponents, relative to the largest of the first row, end at these."""
    x = cosines(50, 70)
    x = x - x[0].max()
    x = torch.where(x < 0, x * (below / x.min()), x * (above / x.max()))
    return (x * (0.05 * math.log(2))).to(dtype)


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize(
    ("below", "above", "kept"),
    [
        (-59.9, 19.9, True), (-30, 10, True), (-60.1, 19.9, False), (-59.9, 20.1, False),
        (-600, 200, False),
    ],
)  # fmt: skip
def test_kept_exponentials_equal_the_log_domain(
    below: float, above: float, kept: bool, iterations: int, dtype: torch.dtype
) -> None:
    scores = of_range(below, above, dtype)
    plan = sslkern.sinkhorn(scores, iterations=iterations)
    logarithmic = in_log_domain(scores, iterations=iterations)
    # Or the ranges above were not those around the change, and this test were about one way alone.
    assert torch.equal(plan, logarithmic) != kept
    close(plan, logarithmic, 200 * torch.finfo(dtype).eps)
    assert_like_reference(scores, iterations=iterations)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("late", [1, 299])
def test_a_row_that_does_not_fit_is_found_late(late: int, dtype: torch.dtype) -> None:
    """When most exponentials are written already, by several threads."""
    scores = cosines(300, 400).to(dtype)
    scores[late, -1] = 30.0
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(sslkern.sinkhorn(scores), in_log_domain(scores))
    assert_like_reference(scores)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", ["plain", "weight", "marginal", "problems"])
def test_scores_far_from_zero_keep_their_digits(form: str, dtype: torch.dtype) -> None:
    """Both ways relate exponents to a score, and the potentials to zero."""
    scores, options = make_problem(form, 40, 70, dtype)
    for offset in (64.0, -64.0):
        assert_like_reference(scores + offset, **options)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_float32_keeps_digits_that_eager_loses(epsilon: float, iterations: int, kept: bool) -> None:
    """Exponents near 64 / epsilon meet potentials as large, and what is left is exact to 1e-6.

    Potentials are therefore held in two parts, and their sum with an exponent is rounded once.
    """
    if sslkern.build_config()["active_instruction_set"] == "portable":
        pytest.skip("a product is rounded before it is added here")
    scores = ((cosines(40, 70) * 2**12).round() / 2**12 + 64).float()
    expected = reference.sinkhorn(scores.double(), epsilon, iterations)
    run = sslkern.sinkhorn if kept else in_log_domain
    plan = run(scores, epsilon=epsilon, iterations=iterations)
    assert (plan - expected).abs().max() < 1e-6


# ---- potentials to start from


def potential_from(
    scores: Tensor, options: Options, start: Tensor | None, iterations: int, epsilon: float = 0.05
) -> Tensor:
    """The potentials of the prototypes, after so many iterations."""
    g: Tensor = torch.ops.sslkern.sinkhorn_potential(
        *operands(scores, options, start), epsilon, iterations, None, probabilities(options)
    )
    return g


def operands(scores: Tensor, options: Options, start: Tensor | None) -> tuple[Tensor | None, ...]:
    names = ("queue", "prototype_marginal", "row_weight")
    return (scores, *(options.get(name) for name in names), start)


def probabilities(options: Options) -> bool:
    return options.get("from_probabilities", False) is True


def assert_starts(
    form: str, b: int, k: int, dtype: torch.dtype, epsilon: float = 0.05, iterations: int = 4
) -> None:
    """Iterations one call each, then the plan of where they end, against one call."""
    scores, options = make_problem(form, b, k, dtype)
    plan, potentials, diagnostics = sslkern.sinkhorn(
        scores,
        **({} if probabilities(options) else {"epsilon": epsilon}),
        iterations=iterations,
        return_potentials=True,
        return_diagnostics=True,
        **options,
    )
    g = potential_from(scores, options, None, 1, epsilon)
    for _ in range(iterations - 2):
        g = potential_from(scores, options, g, 1, epsilon)
    last = potential_from(scores, options, g, 1, epsilon)
    wanted = (epsilon, 0, None, probabilities(options), False, True, True)
    found = torch.ops.sslkern.sinkhorn_plan(*operands(scores, options, last), *wanted)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # Exponents are rounded at their size, and what one call keeps it rounds elsewhere.
    bound = 64 * eps * max(1.0, 1 / epsilon / LARGEST_LOGIT_APART) * iterations
    exponent = max(1.0, 1 / epsilon)
    for name, actual, expected, scale in (
        ("plan", found[0], plan, 1.0),
        ("start", found[1], last, exponent if probabilities(options) else 1e-3 * exponent),
        ("prototype", found[1], potentials.prototype, exponent),
        ("row", found[2], potentials.row, exponent),
        ("usage", found[3], diagnostics.usage, 1.0),
        ("entropy", found[4], diagnostics.entropy, exponent),
    ):
        tolerance = max(bound, 1e-12) * scale + (torch.finfo(dtype).eps if name == "plan" else 0)
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    several = potential_from(scores, options, g, 2, epsilon)
    again = potential_from(scores, options, last, 1, epsilon)
    torch.testing.assert_close(several, again, rtol=0, atol=bound * exponent)


# B and K for each way of the kernels: one block, warps, blocks and pieces of rows.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("b", "k"), [(1, 1), (2, 3), (7, 17), (70, 130), (150, 300), (9, 1025), (40, 600), (3, 4101)]
)
@pytest.mark.parametrize("form", FORMS)
def test_iterations_go_on_from_potentials(form: str, b: int, k: int, dtype: torch.dtype) -> None:
    assert_starts(form, b, k, dtype)


@pytest.mark.parametrize("epsilon", [1.0, 0.03, 0.005])
@pytest.mark.parametrize("form", ["plain", "everything"])
def test_iterations_go_on_from_potentials_at_any_epsilon(form: str, epsilon: float) -> None:
    for dtype in (torch.float64, torch.float32):
        assert_starts(form, 40, 70, dtype, epsilon, iterations=6)


@pytest.mark.parametrize("form", FORMS)
def test_an_iteration_from_given_potentials_matches_its_formula(form: str) -> None:
    """And the plan of them, in float64."""
    scores, options = make_problem(form, 20, 30, torch.float64)
    each = scores.shape[:-2]
    g = torch.randn(*each, 30, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rows = torch.cat([scores, options.get("queue", scores[..., :0, :])], dim=-2)
    logits = rows.log() if form == "probabilities" else rows / 0.05
    weight = options.get("row_weight", torch.ones(rows.shape[-2], dtype=torch.float64))
    share = options.get("prototype_marginal", torch.full((30,), 1 / 30, dtype=torch.float64))
    log_q = (logits + g.unsqueeze(-2)).log_softmax(-1)
    got = (weight / weight.sum()).unsqueeze(-1) * log_q.exp()
    close(potential_from(scores, options, g, 1), g + share.log() - got.sum(-2).log(), 1e-13)
    shared = g if scores.dim() == 2 else g[0]
    again = potential_from(scores, options, shared, 0)
    close(again, shared.expand(again.shape), 1e-15)
    wanted = (0.05, 0, None, form == "probabilities", False, False, False)
    plan, *_ = torch.ops.sslkern.sinkhorn_plan(*operands(scores, options, g), *wanted)
    close(plan, log_q.exp()[..., :20, :], 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [9, 1025, 4101])
def test_prototypes_that_get_nothing_have_infinite_potentials(k: int, dtype: torch.dtype) -> None:
    """As they may from the rows of one process: others have some, and 0 is added to theirs."""
    scores = cosines(5, k).to(dtype)
    scores[:, ::2] = -INF
    start = torch.zeros(k, dtype=torch.float64)
    for g in (potential_from(scores, {}, None, 1), potential_from(scores, {}, start, 1)):
        assert (g[::2] == INF).all()
        assert g[1::2].isfinite().all()
    p = scores.exp().to(dtype)
    for start_or_none in (None, start):
        g = potential_from(p, {"from_probabilities": True}, start_or_none, 1)
        assert (g[::2] == INF).all()
        assert g[1::2].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_opcheck_with_a_start(form: str) -> None:
    scores, options = make_problem(form, 6, 9, torch.float32)
    start = torch.zeros(*scores.shape[:-2], 9, dtype=torch.float64)
    inputs = (*operands(scores, options, start), 0.05, 2, None, form == "probabilities")
    torch.library.opcheck(torch.ops.sslkern.sinkhorn_potential, inputs)
    torch.library.opcheck(torch.ops.sslkern.sinkhorn_plan, (*inputs, False, True, True))


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(5, 3000), (1, 4), (70, 1), (64, 128)])
def test_equal_scores_are_spread_evenly(b: int, k: int, dtype: torch.dtype) -> None:
    plan = sslkern.sinkhorn(torch.full((b, k), 0.7, dtype=dtype))
    share = torch.full((b, k), 1 / k, dtype=torch.float64).to(dtype)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(plan, share, rtol=32 * eps + torch.finfo(dtype).eps, atol=0)


@pytest.mark.not_emulated
@pytest.mark.parametrize("probabilities", [False, True])
def test_long_rows_keep_their_digits(probabilities: bool) -> None:
    """300000 equal terms, which all rounded alike if they were added one after the other."""
    scores = torch.full((4, 300_000), 0.3)
    plan = sslkern.sinkhorn(scores, from_probabilities=probabilities)
    close(plan, torch.full_like(plan, 1 / 300_000), 2e-6)
    close(in_log_domain(scores, from_probabilities=probabilities), plan, 2e-6)


@pytest.mark.parametrize("epsilon", [1.0, 0.25, 0.05, 0.005])
def test_two_by_two_has_a_closed_form(epsilon: float) -> None:
    """The limit is the logistic function of half the difference of both assignments."""
    s = torch.tensor([[0.7, 0.2], [0.5, 0.6]], dtype=torch.float64)
    q = torch.sigmoid((s[0, 0] + s[1, 1] - s[0, 1] - s[1, 0]) / (2 * epsilon))
    expected = torch.stack([torch.stack([q, 1 - q]), torch.stack([1 - q, q])])
    close(sslkern.sinkhorn(s, epsilon, 10_000, tolerance=1e-15), expected, 1e-11)


@pytest.mark.parametrize(("epsilon", "q"), [(1.0, 0.7310585786300049), (0.5, 0.8807970779778823)])
def test_symmetric_two_by_two_is_there_after_one_iteration(epsilon: float, q: float) -> None:
    expected = torch.tensor([[q, 1 - q], [1 - q, q]], dtype=torch.float64)
    close(sslkern.sinkhorn(torch.eye(2, dtype=torch.float64), epsilon, 1), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [0.05, 0.0113, 0.005, 0.001])
def test_low_epsilon_stays_finite(epsilon: float, dtype: torch.dtype) -> None:
    """Each row has a prototype of its own, and exponentials are up to e^1000."""
    scores = torch.eye(40, dtype=dtype)
    assert_like_reference(scores, epsilon)
    plan = sslkern.sinkhorn(scores, epsilon)
    assert plan.isfinite().all()
    assert (plan.diagonal().float() > 0.9999).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("far", [1000.0, -1000.0])
@pytest.mark.parametrize("row", [0, 19])
def test_a_row_far_from_all_others(row: int, far: float, dtype: torch.dtype) -> None:
    """20000 units of the exponent above or below: it takes a first iteration of its own."""
    scores = cosines(20, 30).to(dtype)
    scores[row] += far
    for iterations in (1, 2, 3, 10):
        assert_like_reference(scores, iterations=iterations)
        assert sslkern.sinkhorn(scores, iterations=iterations).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["plain", "queue", "everything"])
def test_excluded_prototypes_get_nothing(form: str, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 33, 50, dtype)
    masked = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    scores[masked] = -INF
    assert_like_reference(scores, **options)
    plan = sslkern.sinkhorn(scores, **options)
    assert plan[masked].abs().max() == 0
    assert plan.isfinite().all()


@pytest.mark.parametrize("probabilities", [False, True])
def test_prototypes_excluded_from_all_rows_but_one(probabilities: bool) -> None:
    """They have that row to themselves."""
    scores = sharpened(cosines(9, 20)) if probabilities else cosines(9, 20)
    scores[:, 7] = 0 if probabilities else -INF
    scores[4, 7] = 1e-30 if probabilities else -3
    for dtype in (torch.float64, torch.float32):
        options = {"from_probabilities": probabilities, "iterations": 5}
        assert_like_reference(scores.to(dtype), **options)
        column = sslkern.sinkhorn(scores.to(dtype), **options)[:, 7]
        assert (column > 0).tolist() == [i == 4 for i in range(9)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["weight", "everything", "probabilities"])
@pytest.mark.parametrize("junk", [math.nan, INF, -INF, 60000.0])
def test_rows_without_weight_have_no_part(junk: float, form: str, dtype: torch.dtype) -> None:
    """Whatever they hold: the others are what they are without them."""
    scores, options = make_problem(form, 32, 50, dtype)
    rows = 32 + (17 if "queue" in options else 0)
    weight = torch.ones(rows, dtype=torch.float64)
    weight[:32:5] = 0
    counts = weight > 0
    options["row_weight"] = weight
    if "queue" in options:
        weight[35] = 0
        options["queue"][:, 3] = abs(junk)
    scores[..., ~counts[:32], :] = abs(junk) if form == "probabilities" else junk
    plan = sslkern.sinkhorn(scores, **options)[..., counts[:32], :]
    assert plan.isfinite().all()
    less = dict(options, row_weight=weight[counts])
    if "queue" in options:
        less["queue"] = options["queue"][:, counts[32:]]
    expected = reference.sinkhorn(scores[..., counts[:32], :].double(), **double(less))
    eager = reference.sinkhorn(scores[..., counts[:32], :], **less)
    assert_accurate(plan, eager, expected, f"{form}, {dtype}, {junk}")


def test_rows_without_weight_are_assigned() -> None:
    scores = cosines(8, 5)
    weight = torch.tensor([1.0, 0.0] * 4, dtype=torch.float64)
    plan, (g, _) = sslkern.sinkhorn(scores, row_weight=weight, return_potentials=True)
    close(plan[1::2], (scores / 0.05 + g).softmax(1)[1::2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_and_shares_of_extreme_sizes(dtype: torch.dtype) -> None:
    scores = cosines(40, 50).to(dtype)
    weight = 10 ** torch.linspace(-12, 12, 40, dtype=torch.float64)
    share = 10 ** torch.linspace(-15, 0, 50, dtype=torch.float64)
    options = {"row_weight": weight, "prototype_marginal": share / share.sum()}
    assert_like_reference(scores, **options)
    assert_like_reference(scores, 0.005, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.parametrize("where", ["scores", "queue"])
@pytest.mark.parametrize("form", ["plain", "everything", "probabilities"])
def test_nan_and_infinity_show(
    form: str, where: str, value: float, hard: bool, dtype: torch.dtype
) -> None:
    """Through the sums in every row, or only where the definition has them: never as a number."""
    scores, options = make_problem(form, 20, 50, dtype)
    options.pop("row_weight", None)
    if where == "queue":
        options.setdefault("queue", scores.clone())
    (scores if where == "scores" else options["queue"])[..., 3, 7] = value
    plan = sslkern.sinkhorn(scores, hard=hard, **options)
    expected = reference.sinkhorn(scores.double(), hard=hard, **double(options))
    assert not expected.isfinite().all() or value == INF
    assert not plan[..., 7].isfinite().all()
    assert not plan[~expected.isfinite()].isfinite().any()
    if where == "scores":
        assert not plan[..., 3, 7].isfinite().any()


@pytest.mark.parametrize("hard", [False, True])
def test_a_row_or_column_of_nothing_shows(hard: bool) -> None:
    """There is no such plan."""
    for excluded in ((3, slice(None)), (slice(None), 3)):
        scores = cosines(8, 9).float()
        scores[excluded] = -INF
        assert not sslkern.sinkhorn(scores, hard=hard)[excluded].isfinite().any()
        p = scores.exp()
        plan = sslkern.sinkhorn(p, hard=hard, from_probabilities=True)
        assert not plan[excluded].isfinite().any()


def test_nan_shows_in_potentials_and_diagnostics() -> None:
    scores = cosines(8, 9).float()
    scores[3, 4] = math.nan
    _, potentials, diagnostics = sslkern.sinkhorn(
        scores, return_potentials=True, return_diagnostics=True
    )
    assert not potentials.prototype[4].isfinite()
    assert not potentials.row[3].isfinite()
    assert not diagnostics.usage[4].isfinite()
    assert not diagnostics.marginal_error.isfinite()
    assert not diagnostics.entropy.isfinite()


# ---- hard assignment


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(1, 1), (2, 3), (9, 17), (33, 1025), (5, 3001), (513, 40)])
@pytest.mark.parametrize("form", FORMS)
def test_hard_plan_is_one_at_the_largest_of_a_row(
    form: str, b: int, k: int, dtype: torch.dtype
) -> None:
    scores, options = make_problem(form, b, k, dtype)
    hard = sslkern.sinkhorn(scores, hard=True, **options)
    assert hard.dtype == dtype
    assert ((hard == 0) | (hard == 1)).all()
    assert (hard.sum(-1) == 1).all()
    soft = reference.sinkhorn(scores.double(), **double(options))
    largest = soft.max(-1).values
    chosen = (soft * hard.double()).sum(-1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(chosen, largest, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [4, 40, 2050])
@pytest.mark.parametrize("first", [0, 1, -2])
def test_hard_plan_takes_the_first_of_equal_ones(first: int, k: int, dtype: torch.dtype) -> None:
    """Prototypes that are equal in all rows have equal shares, bit by bit."""
    scores = cosines(6, k).clamp(max=0.9).to(dtype)
    scores[:, first] = scores[:, -1] = 1.0
    scores[5, [first, -1]] = -1.0
    hard = sslkern.sinkhorn(scores, hard=True, iterations=0)
    assert hard.argmax(1)[:5].tolist() == [first % k] * 5
    assert (hard[:, -1] == 0).all()


def test_hard_plan_has_the_diagnostics_of_the_soft_one() -> None:
    scores = cosines(50, 30).float()
    _, soft = sslkern.sinkhorn(scores, return_diagnostics=True)
    _, hard = sslkern.sinkhorn(scores, return_diagnostics=True, hard=True)
    assert all(torch.equal(a, b) for a, b in zip(soft, hard, strict=True))


def test_hard_reference_is_the_argmax_of_the_soft_one() -> None:
    scores = cosines(50, 30)
    hard = reference.sinkhorn(scores, hard=True)
    assert torch.equal(hard.argmax(1), reference.sinkhorn(scores).argmax(1))
    assert (hard.sum(1) == 1).all()


# ---- tolerance


def iterations_of_sela(
    scores: Tensor, epsilon: float, tolerance: float, m: Tensor, w: Tensor
) -> int:
    """How many the loop of SeLa makes, with any shares, which looks at every iteration here."""
    ps = (scores.double() / epsilon).exp()
    c = w / w.sum()
    for count in range(1, 1000):
        r = m / (c @ ps)
        before, c = c, w / w.sum() / (ps @ r)
        if (before[w > 0] / c[w > 0] - 1).abs().sum() < tolerance:
            return count
    raise AssertionError("the loop has not come to an end")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tolerance", [1e3, 1.0, 0.1, 1e-3])
@pytest.mark.parametrize("form", ["plain", "in place", "weight", "marginal", "queue"])
def test_tolerance_stops_where_sela_does(form: str, tolerance: float, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 90, 40, dtype)
    rows = torch.cat([scores, options["queue"]]) if form == "queue" else scores
    m = options.get("prototype_marginal", torch.full((40,), 1 / 40, dtype=torch.float64))
    w = options.get("row_weight", torch.ones(len(rows), dtype=torch.float64))
    count = iterations_of_sela(rows, 0.05, tolerance, m, w)
    own = scores.clone() if form == "in place" else None
    for most in (1000, count):
        out = own.copy_(scores) if own is not None else None
        stopped = sslkern.sinkhorn(
            scores if out is None else out,
            iterations=most, tolerance=tolerance, out=out, return_potentials=True, **options,
        )  # fmt: skip
        out = torch.empty_like(scores) if out is None else scores.clone()
        expected = sslkern.sinkhorn(
            out if form == "in place" else scores,
            iterations=count, out=out, return_potentials=True, **options,
        )  # fmt: skip
        assert torch.equal(stopped[0], expected[0])
        assert torch.equal(stopped[1].prototype, expected[1].prototype)
    if count > 1:
        fewer = sslkern.sinkhorn(scores, iterations=count - 1, tolerance=tolerance, **options)
        assert not torch.equal(fewer, stopped[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("b", "k", "tolerance"), [(60, 300, 1.0), (4, 4101, 0.01)])
@pytest.mark.parametrize("form", ["plain", "weight"])
def test_tolerance_counts_rows_and_prototypes_of_all_blocks(
    form: str, b: int, k: int, tolerance: float, dtype: torch.dtype
) -> None:
    scores, options = make_problem(form, b, k, dtype)
    m = torch.full((k,), 1 / k, dtype=torch.float64)
    w = options.get("row_weight", torch.ones(b, dtype=torch.float64))
    count = iterations_of_sela(scores, 0.05, tolerance, m, w)
    assert count > 2
    stopped = sslkern.sinkhorn(scores, iterations=count + 3, tolerance=tolerance, **options)
    assert torch.equal(stopped, sslkern.sinkhorn(scores, iterations=count, **options))
    assert not torch.equal(stopped, sslkern.sinkhorn(scores, iterations=count - 1, **options))


def test_tolerance_spans_several_counts() -> None:
    """What the test above compares with is no single number."""
    equal = torch.full((40,), 1 / 40, dtype=torch.float64)
    counts = {
        iterations_of_sela(cosines(90, 40), 0.05, t, equal, torch.ones(90).double())
        for t in (1e3, 1.0, 0.1, 1e-3)
    }
    assert len(counts) == 4
    assert min(counts) == 1


def test_iterations_are_the_most_with_a_tolerance() -> None:
    scores = cosines(90, 40)
    for iterations in (0, 1, 2):
        expected = sslkern.sinkhorn(scores, iterations=iterations)
        bounded = sslkern.sinkhorn(scores, iterations=iterations, tolerance=1e-9)
        assert torch.equal(bounded, expected)


def test_each_problem_stops_by_itself() -> None:
    scores = torch.stack([cosines(60, 20), torch.zeros(60, 20), 3 * cosines(60, 20, seed=1)])
    plans = sslkern.sinkhorn(scores, iterations=60, tolerance=3.0)
    for plan, own in zip(plans, scores, strict=True):
        assert torch.equal(plan, sslkern.sinkhorn(own, iterations=60, tolerance=3.0))
    close(plans, reference.sinkhorn(scores, iterations=60, tolerance=3.0), 1e-11)


@pytest.mark.cpu_only
@pytest.mark.parametrize("probabilities", [False, True])
def test_threads_agree_on_when_to_stop(probabilities: bool) -> None:
    """One must not write what another has yet to read for its decision."""
    torch.set_num_threads(4)
    scores = cosines(600, 70).mul(8).exp() if probabilities else cosines(600, 70)
    options: Options = {"from_probabilities": probabilities, "return_diagnostics": True}
    plans = [sslkern.sinkhorn(scores, iterations=n, **options)[0] for n in range(1, 30)]
    plan, _ = sslkern.sinkhorn(scores, iterations=30, tolerance=30.0, **options)
    expected = next(n for n, p in enumerate(plans) if torch.equal(p, plan))
    assert 0 < expected < 20
    for _ in range(50):
        plan, _ = sslkern.sinkhorn(scores, iterations=30, tolerance=30.0, **options)
        assert torch.equal(plan, plans[expected])


# ---- potentials and diagnostics


@pytest.mark.parametrize("form", FORMS)
def test_potentials_are_those_of_the_plan(form: str) -> None:
    scores, options = make_problem(form, 40, 70, torch.float64)
    plan, (g, f) = sslkern.sinkhorn(scores, return_potentials=True, **options)
    exponent = scores.log() if form == "probabilities" else scores / 0.05
    close(plan, (exponent + g.unsqueeze(-2) + f.unsqueeze(-1)).exp())


def test_potentials_have_names() -> None:
    _, potentials, diagnostics = sslkern.sinkhorn(
        cosines(4, 5), return_potentials=True, return_diagnostics=True
    )
    assert potentials._fields == ("prototype", "row")
    assert diagnostics._fields == ("marginal_error", "usage", "entropy")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(1, 1), (5, 17), (33, 1025), (513, 9)])
@pytest.mark.parametrize("form", FORMS)
def test_diagnostics_are_those_of_the_plan(form: str, b: int, k: int, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, b, k, dtype)
    _, (error, usage, entropy) = sslkern.sinkhorn(scores, return_diagnostics=True, **options)
    q = reference.sinkhorn(scores.double(), **double(options))
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(usage, q.mean(-2), rtol=tolerance, atol=tolerance / k)
    share = options.get("prototype_marginal", 1 / k)
    distance = (q.mean(-2) - share).abs().sum(-1)
    torch.testing.assert_close(error, distance, rtol=tolerance, atol=tolerance)
    bits = torch.special.entr(q).sum(-1).mean(-1)
    torch.testing.assert_close(entropy, bits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("b", "k"), [(13, 9), (60, 300), (3, 4101)])
@pytest.mark.parametrize("hard", [False, True])
def test_diagnostics_in_place_are_of_the_scores(
    hard: bool, b: int, k: int, dtype: torch.dtype
) -> None:
    """Which the plan has replaced by then."""
    scores = cosines(b, k).to(dtype)
    apart, expected = sslkern.sinkhorn(scores, hard=hard, return_diagnostics=True)
    own = scores.clone()
    plan, actual = sslkern.sinkhorn(own, hard=hard, return_diagnostics=True, out=own)
    assert plan is own
    tolerance = 64 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    if not hard:  # of equal ones, either may be larger by a rounding
        close(plan, apart, tolerance)
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 3), (24, 1030), (3, 8200)])
def test_assignments_below_the_normal_numbers_add_no_entropy(shape: tuple[int, int]) -> None:
    """8e-39 is one of float32, but none to the logarithm of a GPU."""
    scores = torch.full(shape, -87.0)
    scores[:, :2] = 0
    _, diagnostics = sslkern.sinkhorn(scores, 1.0, 0, return_diagnostics=True)
    assert abs(diagnostics.entropy.item() - math.log(2)) < 1e-6


def test_entropy_is_from_zero_to_log_of_the_prototypes() -> None:
    for scores, expected in ((torch.zeros(9, 40), math.log(40)), (torch.eye(40), 0.0)):
        _, diagnostics = sslkern.sinkhorn(scores, 0.005, return_diagnostics=True)
        assert abs(diagnostics.entropy.item() - expected) < 1e-6


# ---- memory


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [9, 64, 1030])
@pytest.mark.parametrize("form", FORMS)
def test_out_is_written(form: str, k: int, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 13, k, dtype)
    expected = sslkern.sinkhorn(scores, **options)
    out = torch.full_like(scores, math.nan)
    assert sslkern.sinkhorn(scores, out=out, **options) is out
    assert torch.equal(out, expected)
    own = scores.clone()
    assert sslkern.sinkhorn(own, out=own, **options) is own
    close(own, expected, 64 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_out_may_be_a_slice(form: str, dtype: torch.dtype, hard: bool) -> None:
    """And nothing around it is touched."""
    scores, options = make_problem(form, 13, 70, dtype)
    options["hard"] = hard
    expected = sslkern.sinkhorn(scores, **options)
    around = torch.full((*scores.shape[:-2], 15, 75), 7.0, dtype=dtype)
    out = around[..., 1:-1, 2:-3]
    _, potentials = sslkern.sinkhorn(scores, out=out, return_potentials=True, **options)
    assert torch.equal(out, expected)
    assert int((around != 7).sum()) == out.numel()
    assert torch.equal(
        potentials.row, sslkern.sinkhorn(scores, return_potentials=True, **options)[1].row
    )
    out.copy_(scores)
    sslkern.sinkhorn(out, out=out, **options)  # in place
    close(out, expected, 1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert int((around != 7).sum()) == out.numel()


def test_scores_and_queue_and_out_may_lie_in_one_buffer() -> None:
    buffer = torch.empty(40, 16)
    buffer[:30] = cosines(30, 16)
    scores, queue, out = buffer[:10], buffer[10:30], buffer[30:]
    expected = sslkern.sinkhorn(scores.clone(), queue=queue.clone())
    assert torch.equal(sslkern.sinkhorn(scores, queue=queue, out=out), expected)


def test_out_may_have_the_memory_of_shares() -> None:
    scores = cosines(1, 16)
    out = power_law(16)[None]
    expected = sslkern.sinkhorn(scores, prototype_marginal=out[0].clone())
    assert torch.equal(sslkern.sinkhorn(scores, prototype_marginal=out[0], out=out), expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.mT.contiguous().mT,
        lambda z: torch.cat([z, z], dim=-1)[..., : z.shape[-1]],
        lambda z: torch.stack([z, z], dim=-2)[..., 1, :],
        lambda z: torch.stack([z, z], dim=-1)[..., 0],
        lambda z: torch.cat([torch.zeros_like(z[..., :1, :]), z], dim=-2)[..., 1:, :],
        lambda z: torch.cat([z[..., :1], z], dim=-1)[..., 1:],
    ],
    ids=["transposed", "row-stride", "interleaved", "column-stride", "offset", "unaligned"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_views_give_the_same_numbers(
    form: str, dtype: torch.dtype, view: Callable[[Tensor], Tensor]
) -> None:
    scores, options = make_problem(form, 9, 1024 + 48, dtype)
    expected = sslkern.sinkhorn(scores, **options)
    if "queue" in options:
        options["queue"] = view(options["queue"])
    assert torch.equal(sslkern.sinkhorn(view(scores), **options), expected)


def test_one_row_may_serve_as_all() -> None:
    """Rows at a distance of 0."""
    row = cosines(1, 40).float()
    expected = sslkern.sinkhorn(row.repeat(6, 1))
    assert torch.equal(sslkern.sinkhorn(row.expand(6, 40)), expected)


@pytest.mark.not_emulated
def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    distance, k = 2**31 + 64, 40
    x = cosines(2, k).bfloat16()
    try:  # of which two pages are ever touched
        storage = torch.empty(distance + k, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this system does not lend 4 GiB of addresses")
    scores = storage.as_strided((2, k), (distance, 1)).copy_(x)
    expected = sslkern.sinkhorn(x)
    assert torch.equal(sslkern.sinkhorn(scores), expected)
    assert torch.equal(sslkern.sinkhorn(scores, out=scores), expected)


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_left_alone(form: str) -> None:
    scores, options = make_problem(form, 20, 1030, torch.float32)
    given = [scores, *(x for x in options.values() if isinstance(x, Tensor))]
    before = [x.clone() for x in given]
    sslkern.sinkhorn(scores, **options)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


# ---- gradients: there are none


@pytest.mark.parametrize("form", ["plain", "queue"])
def test_plan_of_what_requires_grad_does_not(form: str) -> None:
    scores, options = make_problem(form, 6, 9, torch.float32)
    expected = sslkern.sinkhorn(scores, **options)
    for x in (scores, options.get("queue", scores)):
        x.requires_grad_()
    plan, potentials, diagnostics = sslkern.sinkhorn(
        scores, return_potentials=True, return_diagnostics=True, **options
    )
    assert not any(x.requires_grad for x in (plan, *potentials, *diagnostics))
    assert torch.equal(plan, expected)
    out = torch.empty_like(scores)
    assert not sslkern.sinkhorn(scores, out=out, **options).requires_grad


@pytest.mark.parametrize("options", [{}, {"row_weight": some_weights(4)}, {"iterations": 0}])
def test_reference_passes_gradcheck(options: Options) -> None:
    """The definition is differentiable: for who wants a gradient through the plan."""
    scores = cosines(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: reference.sinkhorn(s, 0.5, **options), (scores,))


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.sinkhorn(S).isfinite().all()


# ---- properties


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_rows_sum_to_one(form: str, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 40, 70, dtype)
    total = sslkern.sinkhorn(scores, **options).double().sum(-1)
    assert (total - 1).abs().max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_columns_come_to_their_shares(weighted: bool, probabilities: bool) -> None:
    scores = cosines(40, 30).exp() if probabilities else cosines(40, 30)
    share, weight = power_law(30), some_weights(40) if weighted else torch.ones(40).double()
    plan = sslkern.sinkhorn(
        scores,
        iterations=100_000,
        tolerance=1e-13,
        prototype_marginal=share,
        row_weight=weight,
        from_probabilities=probabilities,
    )
    close(weight @ plan / weight.sum(), share, 1e-10)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("form", ["plain", "queue", "everything"])
def test_constants_of_prototypes_change_nothing(form: str, iterations: int) -> None:
    """After any number of iterations."""
    scores, options = make_problem(form, 20, 30, torch.float64)
    shift = torch.linspace(-1, 1, 30, dtype=torch.float64)
    expected = sslkern.sinkhorn(scores, iterations=iterations, **options)
    if "queue" in options:
        options["queue"] = options["queue"] + shift
    close(sslkern.sinkhorn(scores + shift, iterations=iterations, **options), expected)


def test_constants_of_rows_change_nothing_in_the_end() -> None:
    scores, shift = cosines(20, 30), torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    few = (sslkern.sinkhorn(s, 0.2, 3) for s in (scores, scores + shift))
    assert not torch.allclose(*few, rtol=1e-3)
    many = [sslkern.sinkhorn(s, 0.2, 10_000, tolerance=1e-14) for s in (scores, scores + shift)]
    close(many[0], many[1], 1e-11)


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_order_of_rows_and_prototypes_does_not_matter(probabilities: bool) -> None:
    scores = sharpened(cosines(70, 300)) if probabilities else cosines(70, 300)
    g = torch.Generator().manual_seed(1)
    rows, columns = torch.randperm(70, generator=g), torch.randperm(300, generator=g)
    expected = sslkern.sinkhorn(scores, from_probabilities=probabilities)[rows][:, columns]
    moved = scores[rows][:, columns]
    close(sslkern.sinkhorn(moved, from_probabilities=probabilities), expected)


def test_epsilon_is_a_unit_of_the_scores() -> None:
    scores = cosines(20, 30)
    close(sslkern.sinkhorn(scores * 8, 0.4), sslkern.sinkhorn(scores, 0.05))


def test_no_iteration_is_a_softmax() -> None:
    scores = cosines(20, 30)
    close(sslkern.sinkhorn(scores, 0.2, 0), (scores / 0.2).softmax(1))
    p = sharpened(scores)
    close(sslkern.sinkhorn(p, iterations=0, from_probabilities=True), p)


# ---- peers


def peer(name: str, module: str) -> Any:
    try:
        return peers.import_peer(name, module)
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.filterwarnings("ignore:Sinkhorn did not converge")
@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.005])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("form", ["plain", "marginal", "weight", "both"])
def test_equals_pot(form: str, iterations: int, epsilon: float) -> None:
    """Its plan has the mass of the rows: Q is the plan over their weights.

    Its potentials of the rows are f + log w, and start at zero unless told: where the weights
    differ, f = 0 has to be given.
    """
    ot = peer("POT", "ot")
    scores, b, k = cosines(40, 70), 40, 70
    weight = torch.linspace(0.1, 2, b, dtype=torch.float64)
    options: Options = {}
    if form in ("marginal", "both"):
        options["prototype_marginal"] = power_law(k)
    if form in ("weight", "both"):
        options["row_weight"] = weight
    w = weight / weight.sum() if "row_weight" in options else torch.full_like(weight, 1 / b)
    m = options.get("prototype_marginal", torch.full((k,), 1 / k, dtype=torch.float64))
    start = (w.log().numpy(), m.numpy() * 0) if "row_weight" in options else None
    theirs = ot.bregman.sinkhorn_log(
        w.numpy(), m.numpy(), -scores.numpy(), epsilon,
        numItermax=iterations, stopThr=0, warmstart=start,
    )  # fmt: skip
    expected = torch.from_numpy(theirs) / w[:, None]
    close(sslkern.sinkhorn(scores, epsilon, iterations, **options), expected, 1e-12)


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.03])
@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
def test_equals_lightly(iterations: int, epsilon: float) -> None:
    swav = peer("lightly", "lightly.loss.swav_loss")
    scores = cosines(40, 70)
    ours = sslkern.sinkhorn(scores, epsilon, iterations)
    if iterations == 0:  # lightly's plan then sums to the batch size as a whole
        close(ours / ours.sum(1, keepdim=True), (scores / epsilon).softmax(1))
        return
    close(ours, swav.sinkhorn(scores, iterations=iterations, epsilon=epsilon))


@pytest.mark.parametrize(
    ("dtype", "epsilon"), [(torch.float32, 0.0113), (torch.float32, 0.005), (torch.float16, 0.05)]
)
def test_finite_where_lightly_is_not(dtype: torch.dtype, epsilon: float) -> None:
    swav = peer("lightly", "lightly.loss.swav_loss")
    scores = torch.eye(8).to(dtype)
    assert not swav.sinkhorn(scores, epsilon=epsilon).isfinite().all()
    assert sslkern.sinkhorn(scores, epsilon).isfinite().all()
    assert_like_reference(scores, epsilon)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_loop_of_swav(iterations: int) -> None:
    """Prototypes to 1 / K, then samples to 1 / B, of exponentials that sum to one."""
    scores, b, k = cosines(40, 70), 40, 70
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / k
        q = q / q.sum(0, keepdim=True) / b
    close(sslkern.sinkhorn(scores, iterations=iterations), (q * b).T)


# ---- determinism


def everything(scores: Tensor, **options: Any) -> list[Tensor]:
    plan, potentials, diagnostics = sslkern.sinkhorn(
        scores, return_potentials=True, return_diagnostics=True, **options
    )
    return [plan, *potentials, *diagnostics]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(40, 500), (3, 4101), (300, 9)])
@pytest.mark.parametrize("form", FORMS)
def test_bitwise_the_same_twice(form: str, b: int, k: int, dtype: torch.dtype) -> None:
    """Also where the second run has threads in another order."""
    scores, options = make_problem(form, b, k, dtype)
    first, second = everything(scores, **options), everything(scores, **options)
    assert all(torch.equal(a, e) for a, e in zip(second, first, strict=True))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("b", "k"), [(300, 700), (40, 5000), (3000, 40)])
@pytest.mark.parametrize("form", FORMS)
def test_bitwise_the_same_for_any_thread_count(
    form: str, b: int, k: int, dtype: torch.dtype
) -> None:
    scores, options = make_problem(form, b, k, dtype)
    torch.set_num_threads(1)
    expected = everything(scores, **options)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        again = everything(scores, **options)
        assert all(torch.equal(a, e) for a, e in zip(again, expected, strict=True))


@pytest.mark.not_emulated
@pytest.mark.parametrize("tolerance", [None, 1.0])
@pytest.mark.parametrize("hard", [False, True])
def test_bitwise_the_same_again(hard: bool, tolerance: float | None) -> None:
    scores = cosines(2, 300, 400).float()
    options: Options = {"hard": hard, "tolerance": tolerance, "iterations": 30}
    torch.set_num_threads(1)
    expected = everything(scores, **options)
    torch.set_num_threads(5)
    for _ in range(20):
        again = everything(scores, **options)
        assert all(torch.equal(a, e) for a, e in zip(again, expected, strict=True))


# ---- errors

S = cosines(4, 5).float()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # scores
        ({"scores": S[0]}, ValueError, r"scores to be of shape \(B, K\) or .* shape \(5,\)"),
        ({"scores": S[None, None]}, ValueError, r"scores to be of shape .* \(1, 1, 4, 5\)"),
        ({"scores": S[:0]}, ValueError, r"scores to be .* no empty dimension, .* \(0, 5\)"),
        ({"scores": S[:, :0]}, ValueError, r"scores to be .* no empty dimension, .* \(4, 0\)"),
        ({"scores": S[None][:0]}, ValueError, r"scores to be .* no empty .* \(0, 4, 5\)"),
        ({"scores": S.long()}, TypeError, r"scores to be of dtype .* got torch.int64"),
        ({"scores": S + 0j}, TypeError, r"scores to be of dtype .* got torch.complex64"),
        ({"scores": S.to_sparse()}, TypeError, r"scores to be a dense tensor, got layout"),
        ({"scores": [1.0]}, TypeError, r"scores to be a tensor, got list"),
        # numbers
        *(
            ({name: value}, error, name + message)
            for name in ("epsilon", "tolerance")
            for value, error, message in (
                (0.0, ValueError, " to be positive and finite, got 0"),
                (-1, ValueError, " to be positive and finite, got -1"),
                (math.nan, ValueError, " to be positive and finite, got nan"),
                (INF, ValueError, " to be positive and finite, got inf"),
                (True, TypeError, " to be a number, got bool"),
                ("0.05", TypeError, " to be a number, got str"),
                (torch.tensor(0.05), TypeError, " to be a number, got Tensor"),
            )
        ),
        ({"epsilon": None}, TypeError, r"epsilon to be a number, got NoneType"),
        ({"iterations": -1}, ValueError, r"iterations to be at least 0, got -1"),
        ({"iterations": 3.0}, TypeError, r"iterations to be a whole number, got float"),
        ({"iterations": True}, TypeError, r"iterations to be a whole number, got bool"),
        ({"iterations": None}, TypeError, r"iterations to be a whole number, got NoneType"),
        # queue
        ({"queue": S[0]}, ValueError, r"queue to be of shape \(L, K\) .* got shape \(5,\)"),
        ({"queue": S[:, :4]}, ValueError, r"queue to be of shape \(L, K\) .* got shape \(4, 4\)"),
        ({"queue": S[None]}, ValueError, r"queue to be of shape \(L, K\) .* \(1, 4, 5\)"),
        (
            {"scores": S[None], "queue": S},
            ValueError,
            r"queue to be of shape \(P, L, K\) to go with .* got shape \(4, 5\)",
        ),
        (
            {"scores": S[None], "queue": S.repeat(2, 1, 1)},
            ValueError,
            r"queue to be of shape \(P, L, K\) to go with .* got shape \(2, 4, 5\)",
        ),
        ({"queue": S.double()}, TypeError, r"queue to be of the dtype .* got torch.float64"),
        ({"queue": S.long()}, TypeError, r"queue to be of dtype .* got torch.int64"),
        ({"queue": S.to_sparse()}, TypeError, r"queue to be a dense tensor, got layout"),
        ({"queue": [1.0]}, TypeError, r"queue to be a tensor, got list"),
        # shares of prototypes
        (
            {"prototype_marginal": torch.ones(4) / 4},
            ValueError,
            r"prototype_marginal to be of shape \(K,\) with K = 5, got shape \(4,\)",
        ),
        (
            {"prototype_marginal": torch.ones(1, 5) / 5},
            ValueError,
            r"prototype_marginal to be of shape \(K,\) with K = 5, got shape \(1, 5\)",
        ),
        (
            {"scores": S[None], "prototype_marginal": torch.ones(2, 5) / 5},
            ValueError,
            r"prototype_marginal to be of shape \(K,\) or \(P, K\) with .* got shape \(2, 5\)",
        ),
        (
            {"prototype_marginal": torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])},
            ValueError,
            r"prototype_marginal to be positive and finite everywhere, got 0 at 2. Leave out",
        ),
        (
            {"prototype_marginal": torch.tensor([0.5, 0.7, -0.2, 0.0, 0.0])},
            ValueError,
            r"prototype_marginal to be positive and finite everywhere, got -0.2 at 2",
        ),
        (
            {"prototype_marginal": torch.full((5,), math.nan)},
            ValueError,
            r"prototype_marginal to be positive and finite everywhere, got nan at 0",
        ),
        (
            {"prototype_marginal": torch.ones(5)},
            ValueError,
            r"prototype_marginal to be of sum 1, got 5",
        ),
        (
            {"prototype_marginal": torch.full((5,), 0.2001)},
            ValueError,
            r"prototype_marginal to be of sum 1, got 1.0005",
        ),
        (
            {
                "scores": S.repeat(2, 1, 1),
                "prototype_marginal": torch.ones(2, 5) / 5 + torch.tensor([[0.0], [0.02]]),
            },
            ValueError,
            r"prototype_marginal to be of sum 1, got 1.1",
        ),
        ({"prototype_marginal": torch.ones(5).long()}, TypeError, r"prototype_marginal to be of d"),
        ({"prototype_marginal": 0.2}, TypeError, r"prototype_marginal to be a tensor, got float"),
        (
            {"prototype_marginal": torch.full((5,), 0.2, requires_grad=True)},
            ValueError,
            r"prototype_marginal to require no gradient, .* Pass prototype_marginal.detach\(\)",
        ),
        # weights of rows
        (
            {"row_weight": torch.ones(3)},
            ValueError,
            r"row_weight to be of shape \(B,\) with B = 4, got shape \(3,\)",
        ),
        (
            {"row_weight": torch.ones(4, 1)},
            ValueError,
            r"row_weight to be of shape \(B,\) with B = 4, got shape \(4, 1\)",
        ),
        (
            {"row_weight": torch.ones(4), "queue": S[:2]},
            ValueError,
            r"row_weight to be of shape \(B \+ L,\) with B \+ L = 6, got shape \(4,\)",
        ),
        (
            {"scores": S[None], "row_weight": torch.ones(2, 4)},
            ValueError,
            r"row_weight to be of shape \(B,\) or \(P, B\) with B = 4, got shape \(2, 4\)",
        ),
        (
            {"row_weight": torch.tensor([1.0, 2.0, -1.0, 1.0])},
            ValueError,
            r"row_weight to be non-negative and finite everywhere, got -1 at 2",
        ),
        (
            {"row_weight": torch.tensor([1.0, math.nan, 1.0, 1.0])},
            ValueError,
            r"row_weight to be non-negative and finite everywhere, got nan at 1",
        ),
        (
            {"row_weight": torch.tensor([1.0, INF, 1.0, 1.0])},
            ValueError,
            r"row_weight to be non-negative and finite everywhere, got inf at 1",
        ),
        ({"row_weight": torch.zeros(4)}, ValueError, r"row_weight to be of a positive, finite sum"),
        (
            {"row_weight": torch.full((4,), 1e308, dtype=torch.float64)},
            ValueError,
            r"row_weight to be of a positive, finite sum, got inf",
        ),
        ({"row_weight": torch.ones(4).long()}, TypeError, r"row_weight to be of dtype"),
        ({"row_weight": [1.0] * 4}, TypeError, r"row_weight to be a tensor, got list"),
        (
            {"row_weight": torch.ones(4, requires_grad=True)},
            ValueError,
            r"row_weight to require no gradient, .* Pass row_weight.detach\(\)",
        ),
        # probabilities
        (
            {"scores": S.clamp(-0.1, 1), "from_probabilities": True},
            ValueError,
            r"scores to be non-negative with from_probabilities, got -0.1",
        ),
        (
            {"scores": S.exp(), "queue": -S.exp(), "from_probabilities": True},
            ValueError,
            r"queue to be non-negative with from_probabilities, got -",
        ),
        (
            {"scores": S.exp(), "epsilon": 0.03, "from_probabilities": True},
            ValueError,
            r"epsilon to be left alone with from_probabilities, got 0.03",
        ),
        # out
        ({"out": S[:3].clone()}, ValueError, r"out to be of the shape of scores.*\(3, 5\)"),
        ({"out": S[None].clone()}, ValueError, r"out to be of the shape of scores.*\(1, 4, 5\)"),
        ({"out": S.double()}, TypeError, r"out to be of the dtype of scores.*torch.float64"),
        ({"out": S.long()}, TypeError, r"out to be of dtype .* got torch.int64"),
        ({"out": S.to_sparse()}, TypeError, r"out to be a dense tensor, got layout"),
        (
            {"out": torch.empty(5, 4).T},
            ValueError,
            r"out to be of adjacent columns, got columns 4 elements apart",
        ),
        (
            {"out": torch.empty(1, 5).expand(4, 5)},
            ValueError,
            r"out to be a tensor whose elements have memory of their own, got an expanded one",
        ),
        ({"out": 1}, TypeError, r"out to be a tensor, got int"),
        (
            {"out": torch.empty(4, 5, requires_grad=True)},
            ValueError,
            r"out to require no gradient, .* Pass out.detach\(\)",
        ),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::sinkhorn: expected " + message):
        sslkern.sinkhorn(**{"scores": S, **options})


@pytest.mark.parametrize(
    "out",
    [
        lambda x: x[1:5, :5], lambda x: x[:4, 1:6], lambda x: x[:4, 6:11],
        lambda x: x.as_strided((4, 5), (5, 1)),
    ],
    ids=["rows", "columns", "side by side", "strides"],
)  # fmt: skip
def test_out_that_overlaps_is_refused(out: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(6, 11)
    message = "expected out to be apart from {}, got one in the midst of its memory"
    with pytest.raises(ValueError, match=message.format("scores, or scores itself")):
        sslkern.sinkhorn(x[:4, :5], out=out(x))
    with pytest.raises(ValueError, match=message.format("queue")):
        sslkern.sinkhorn(S, queue=x[:4, :5], out=out(x))
    with pytest.raises(ValueError, match=message.format("queue")):
        sslkern.sinkhorn(S, queue=x[:4, :5], out=x[:4, :5])


@pytest.mark.parametrize("operator", ["potential", "plan", "plan_out"])
def test_operators_refuse_what_they_have_no_kernel_for(operator: str) -> None:
    op = getattr(torch.ops.sslkern, f"sinkhorn_{operator}")
    rest = {"potential": [], "plan": [False] * 3, "plan_out": [False] * 3 + [S.clone()]}[operator]
    with pytest.raises(TypeError, match="expected scores to be a dense tensor"):
        op(S.to_sparse(), None, None, None, None, 0.05, 3, None, False, *rest)
    for numbers, message in (
        ((0.0, 3, None), "epsilon to be positive and finite"),
        ((0.05, -1, None), "iterations to be at least 0"),
        ((0.05, 3, 0.0), "tolerance to be positive and finite"),
    ):
        with pytest.raises(ValueError, match=message):
            op(S, None, None, None, None, *numbers, False, *rest)
    g = torch.zeros(5, dtype=torch.float64)
    for start, numbers, error, message in (
        (g[:4], (0.05, 3, None), ValueError, r"start to be of shape \(K,\) with K = 5, got"),
        (g[None], (0.05, 3, None), ValueError, r"start to be of shape \(K,\) with K = 5, got"),
        (g.float(), (0.05, 3, None), TypeError, "start to be of dtype torch.float64, got"),
        (g.long(), (0.05, 3, None), TypeError, "start to be of dtype .* got torch.int64"),
        (g, (0.05, 3, 0.1), ValueError, "tolerance to be None with a start, got 0.1"),
    ):
        with pytest.raises(error, match=message):
            op(S, None, None, None, start, *numbers, False, *rest)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 0.0}, ValueError, "epsilon to be positive and finite, got 0"),
        ({"epsilon": "low"}, TypeError, "epsilon to be a number, got str"),
        ({"iterations": -1}, ValueError, "iterations to be at least 0, got -1"),
        ({"iterations": 1.5}, TypeError, "iterations to be a whole number, got float"),
    ],
)
def test_module_refuses(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sslkern::sinkhorn: expected {message}"):
        SinkhornKnopp(**options)


# ---- torch integration


def test_module_equals_function() -> None:
    scores, queue = cosines(7, 8).float(), cosines(5, 8, seed=1).float()
    assign = SinkhornKnopp(0.03, 10)
    assert torch.equal(assign(scores), sslkern.sinkhorn(scores, 0.03, 10))
    assert torch.equal(assign(scores, queue), sslkern.sinkhorn(scores, 0.03, 10, queue=queue))
    assert repr(assign) == "SinkhornKnopp(epsilon=0.03, iterations=10)"
    assert torch.equal(SinkhornKnopp()(scores), sslkern.sinkhorn(scores))


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("form", "dtype"),
    [*((form, torch.float32) for form in FORMS), *(("plain", dtype) for dtype in DTYPES)],
)
@pytest.mark.parametrize("operator", ["potential", "plan", "plan_out"])
def test_opcheck(operator: str, form: str, dtype: torch.dtype) -> None:
    scores, options = make_problem(form, 6, 9, dtype)
    inputs = [
        scores,
        *(options.get(name) for name in ("queue", "prototype_marginal", "row_weight")),
        *(None, 0.05, 3, None if form == "plain" else 0.5, form == "probabilities"),
    ]
    op = getattr(torch.ops.sslkern, f"sinkhorn_{operator}")
    if operator == "potential":
        torch.library.opcheck(op, tuple(inputs))
        return
    for wanted in ((False, False, False), (True, True, True)):
        out = [torch.empty_like(scores)] if operator == "plan_out" else []
        torch.library.opcheck(op, (*inputs, *wanted, *out))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_graph_break(form: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(everything, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for b in (6, 9):
        scores, options = make_problem(form, b, b + 4, torch.float32)
        expected = everything(scores, **options)
        actual = compiled(scores, **options)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.not_emulated
@pytest.mark.parametrize("in_place", [False, True])
def test_compiles_with_out(in_place: bool) -> None:
    torch._dynamo.reset()

    def step(scores: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        plan, potentials = sslkern.sinkhorn(scores, out=out, return_potentials=True)
        return plan * 2, potentials.prototype

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for b in (6, 9):
        scores = cosines(b, 40).float()
        expected, g = step(scores.clone(), torch.empty_like(scores))
        out = scores if in_place else torch.empty_like(scores)
        actual, potential = compiled(scores, out)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(potential, g)
        torch.testing.assert_close(out * 2, expected)


@pytest.mark.not_emulated
def test_compiles_with_epsilon_and_iterations_that_change() -> None:
    """Schedules."""
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.sinkhorn, backend="aot_eager", fullgraph=True)
    scores = cosines(6, 40).float()
    for epsilon, iterations in ((0.05, 3), (0.04, 3), (0.03, 3), (0.03, 5), (0.03, 7)):
        expected = sslkern.sinkhorn(scores, epsilon, iterations)
        assert torch.equal(compiled(scores, epsilon, iterations), expected)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()

    def training_loss(s: Tensor, t: Tensor) -> Tensor:
        plan, potentials = sslkern.sinkhorn(t.relu() + 0, return_potentials=True)
        return -(plan * (s * 2).log_softmax(1)).sum(1).mean() + potentials.prototype.mean()

    student = cosines(6, 40).float().requires_grad_()
    teacher = cosines(6, 40, seed=1).float()
    loss = torch.compile(training_loss, fullgraph=True)(student, teacher)
    loss.backward()
    same = student.detach().clone().requires_grad_()
    expected = training_loss(same, teacher)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(student.grad, same.grad)


def test_autocast_leaves_dtypes_alone() -> None:
    for dtype in DTYPES:
        scores = cosines(6, 40).to(dtype)
        with autocast():
            plan = sslkern.sinkhorn(scores)
        assert torch.equal(plan, sslkern.sinkhorn(scores))


@pytest.mark.parametrize("wide", ["scores", "queue"])
def test_autocast_promotes_mixed_dtypes(wide: str) -> None:
    mixed = {"scores": cosines(6, 40).bfloat16(), "queue": cosines(5, 40, seed=1).bfloat16()}
    expected = sslkern.sinkhorn(**{name: x.float() for name, x in mixed.items()})
    mixed[wide] = mixed[wide].float()
    with autocast():
        assert torch.equal(sslkern.sinkhorn(**mixed), expected)


def test_autocast_takes_the_scores_of_a_layer() -> None:
    layer = torch.nn.Linear(5, 40)
    with autocast():
        scores = layer(torch.randn(6, 5))
        plan = sslkern.sinkhorn(scores)
    assert plan.dtype == scores.dtype == torch.bfloat16
    assert torch.equal(plan, sslkern.sinkhorn(scores.detach()))
