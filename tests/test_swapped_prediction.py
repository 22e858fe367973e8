"""Swapped prediction against its definition, `sslkern.reference`, in float64."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from devices import autocast
from gradients import passes_gradcheck
from torch import Tensor

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import SwAVLoss, SwaVLoss
from sslkern.verification.terms import LARGEST_LOGIT_APART

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# B rows of K prototypes: B around the groups and chunks of the assignment, K around vectors of 2 to
# 16 elements and the block of 1024.
SIZES = [
    (1, 1), (2, 3), (3, 4), (4, 15), (5, 16), (7, 17), (9, 64), (3, 1023), (3, 1024), (3, 1025),
    (2, 2048), (2, 3001), (33, 130), (200, 9),
]  # fmt: skip

# Views that are assigned, and views that only predict.
VIEWS = [(1, 1), (1, 6), (2, 0), (2, 1), (2, 6), (3, 0), (3, 2)]

Options = dict[str, Any]
INF = math.inf


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """More cost time at most sizes here; the tests of threads ask for theirs."""
    torch.set_num_threads(1)


class Views(NamedTuple):
    """Scores of the views, and of a queue for those that are assigned."""

    high: list[Tensor]
    low: list[Tensor]
    queue: list[Tensor] | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Views:
        queue = None if self.queue is None else [f(z) for z in self.queue]
        return Views([f(z) for z in self.high], [f(z) for z in self.low], queue)


def make_views(
    b: int, k: int, dtype: torch.dtype, high: int = 2, low: int = 1, queued: int = 0
) -> Views:
    """Cosines that resemble those of the other views; the queues are longer than the batch."""
    g = torch.Generator().manual_seed(0)

    def scores(rows: int) -> Tensor:
        return torch.randn(rows, k, generator=g, dtype=torch.float64)

    shared, popular = scores(b), scores(1)

    def view() -> Tensor:
        return ((shared + popular + scores(b)) / 4).clamp(-1, 1)

    highs, lows = [view() for _ in range(high)], [view() for _ in range(low)]
    queue = [((popular + scores(queued)) / 4).clamp(-1, 1) for _ in range(high)]
    return Views(highs, lows, queue if queued else None).map(lambda z: z.to(dtype))


def evaluate(
    function: Callable[..., Tensor],
    views: Views,
    dtype: torch.dtype,
    upstream: float = 1.0,
    **options: Any,
) -> dict[str, Tensor]:
    """The loss and the gradients of all views."""
    x = views.map(lambda z: z.to(dtype).clone())
    leaves = [z.requires_grad_() for z in (*x.high, *x.low)]
    loss = function(x.high, x.low, x.queue, **options)
    # Zeros for what the definition does not even differentiate: a view that is assigned alone.
    grads = torch.autograd.grad(loss * upstream, leaves, materialize_grads=True)
    return {"loss": loss.detach()} | {f"grad {i}": g for i, g in enumerate(grads)}


def assert_like_reference(views: Views, temperature: float = 0.1, **options: Any) -> None:
    """The accuracy rule for the loss and the gradients of all views.

    Errors are relative to the terms, n p and Q times the slope of a logit, where these nearly
    cancel; those of a target grow with its exponent beyond what the rule's floor is for.
    """
    dtype = views.high[0].dtype
    options["temperature"] = temperature
    actual = evaluate(sslkern.swav_loss, views, dtype, **options)
    eager = evaluate(reference.swav_loss, views, dtype, **options)
    exact = evaluate(reference.swav_loss, views, torch.float64, **options)
    largest = max(float(z[z.isfinite()].abs().max()) for z in (*views.high, *views.low))
    exponent = largest / min(temperature, options.get("epsilon", 0.05))
    beyond = max(1.0, exponent / LARGEST_LOGIT_APART)
    slope = 1 / (temperature * len(views.high[0]) * (len(views.high) + len(views.low) - 1))
    for name, expected in exact.items():
        half = actual[name].dtype.itemsize == 2
        term = (1.0 if name == "loss" else slope) * (1.0 if half else beyond)
        scale = max(term, float(expected[expected.isfinite()].abs().max()))
        what = f"{name}, {dtype}, {len(views.high)} + {len(views.low)} of {views.high[0].shape}"
        assert_accurate(actual[name], eager[name], expected, what, scale=scale)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Relative to the largest element."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tolerance * max(float(expected.abs().max()), 1e-300)


def all_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12
) -> None:
    assert set(actual) == set(expected)
    for name, value in expected.items():
        close(actual[name], value, tolerance)


def all_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(actual[name], value) for name, value in expected.items())


# ---- the reference itself


def test_reference_passes_gradcheck() -> None:
    x = make_views(3, 4, torch.float64, 2, 1, queued=2)
    # Through the predictions alone: against differences that hold the assignments still.
    q = [reference.sinkhorn(z, queue=y)[:3] for z, y in zip(x.high, x.queue or [], strict=True)]

    def loss(*views: Tensor) -> Tensor:
        pairs = [(i, v) for i in range(2) for v in range(3) if v != i]
        terms = [-(q[i] * (views[v] / 0.1).log_softmax(1)).sum(1).mean() for i, v in pairs]
        return torch.stack(terms).mean()

    leaves = [z.clone().requires_grad_() for z in (*x.high, *x.low)]
    assert torch.autograd.gradcheck(loss, leaves)
    result = evaluate(reference.swav_loss, x, torch.float64)
    value = loss(*leaves)
    close(result["loss"], value.detach())
    for i, expected in enumerate(torch.autograd.grad(value, leaves)):
        close(result[f"grad {i}"], expected)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), SIZES)
def test_matches_reference(b: int, k: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_views(b, k, dtype))
    assert_like_reference(make_views(b, k, dtype, 2, 0, queued=b + 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("high", "low"), [(1, 2), (2, 3)])
def test_matches_reference_in_rows_longer_than_a_block_holds(
    high: int, low: int, dtype: torch.dtype
) -> None:
    assert_like_reference(make_views(2, 4101, dtype, high, low))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(300, 5), (700, 3)])
def test_matches_reference_where_views_share_their_targets(
    b: int, k: int, dtype: torch.dtype
) -> None:
    """As they do on a device where there are rows enough to occupy it."""
    assert_like_reference(make_views(b, k, dtype, 2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queued", [0, 1, 40])
@pytest.mark.parametrize(("high", "low"), VIEWS)
def test_any_number_of_views_matches_reference(
    high: int, low: int, queued: int, dtype: torch.dtype
) -> None:
    assert_like_reference(make_views(20, 70, dtype, high, low, queued))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.005])
@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.03, 0.005])
def test_matches_reference_at_any_temperature(
    epsilon: float, temperature: float, dtype: torch.dtype
) -> None:
    views = make_views(20, 300, dtype, 2, 2, queued=13)
    assert_like_reference(views, temperature, epsilon=epsilon)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("iterations", [0, 1, 2, 10, 50])
def test_matches_reference_after_any_iteration(iterations: int, dtype: torch.dtype) -> None:
    assert_like_reference(make_views(20, 70, dtype, 2, 2, queued=13), iterations=iterations)


@pytest.mark.parametrize(("high", "low"), [(1, 1), (1, 6), (2, 1), (3, 2)])
def test_operator_passes_gradcheck(high: int, low: int) -> None:
    """In the views that only predict: a change of the others would change their targets, too."""
    views = make_views(3, 5, torch.float64, high, low)
    g = torch.linspace(-1, 1, 5 * high, dtype=torch.float64).reshape(high, 5)

    def loss(*predicting: Tensor) -> Tensor:
        everyone = [*views.high, *predicting]
        value, _ = torch.ops.sslkern.swapped_prediction_fwd(everyone, g, 0.3, 0.2)
        return value

    assert passes_gradcheck(loss, [z.requires_grad_() for z in views.low])


@pytest.mark.parametrize(("high", "low"), VIEWS)
def test_gradient_is_that_of_each_prediction(high: int, low: int) -> None:
    """View by view in central differences, where the targets stay."""
    views = make_views(3, 5, torch.float64, high, low)
    result = evaluate(sslkern.swav_loss, views, torch.float64)
    everyone = [*views.high, *views.low]
    q = [sslkern.sinkhorn(z) for z in views.high]
    for v, z in enumerate(everyone):
        targets = [q[i] for i in range(high) if i != v]

        def loss(x: Tensor, targets: list[Tensor] = targets) -> Tensor:
            terms = [-(t * (x / 0.1).log_softmax(1)).sum() for t in targets]
            whole = sum(terms, start=x.new_zeros(()))
            return whole / (high * (high + low - 1) * 3)

        step = 1e-5
        slopes = torch.empty_like(z)
        for index in range(z.numel()):
            unit = torch.zeros_like(z)
            unit.view(-1)[index] = step
            slopes.view(-1)[index] = (loss(z + unit) - loss(z - unit)) / (2 * step)
        assert (result[f"grad {v}"] - slopes).abs().max() < 1e-8


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradient_dtypes(dtype: torch.dtype) -> None:
    result = evaluate(sslkern.swav_loss, make_views(6, 9, dtype, 2, 2, queued=3), dtype)
    assert result["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result["loss"].shape == ()
    assert all(result[f"grad {i}"].dtype == dtype for i in range(4))


@pytest.mark.parametrize("upstream", [1e-30, -3.0, 1e30])
def test_gradient_scales_with_upstream(upstream: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    views = make_views(20, 30, torch.float32)
    expected = evaluate(sslkern.swav_loss, views, torch.float32)
    scaled = evaluate(sslkern.swav_loss, views, torch.float32, upstream)
    for i in range(3):
        close(scaled[f"grad {i}"].double() / upstream, expected[f"grad {i}"], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_upstream_gradient_of_zero_and_nan(dtype: torch.dtype) -> None:
    views = make_views(5, 9, dtype)
    for upstream, expected in ((0.0, 0.0), (math.nan, math.nan)):
        result = evaluate(sslkern.swav_loss, views, dtype, upstream)
        for i in range(3):
            want = torch.full_like(result[f"grad {i}"], expected)
            torch.testing.assert_close(result[f"grad {i}"], want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 3), (0, 3), ()])
def test_views_without_gradient_get_none(wanted: tuple[int, ...]) -> None:
    views = make_views(6, 9, torch.float64, 2, 2, queued=4)
    everything = evaluate(sslkern.swav_loss, views, torch.float64)
    everyone = [*views.high, *views.low]
    for i in wanted:
        everyone[i].requires_grad_()
    loss = sslkern.swav_loss(views.high, views.low, views.queue)
    assert loss.requires_grad == bool(wanted)
    assert torch.equal(loss.detach(), everything["loss"])
    if wanted:
        loss.backward()
    for i, z in enumerate(everyone):
        assert (z.grad is None) == (i not in wanted)
        if z.grad is not None:
            assert torch.equal(z.grad, everything[f"grad {i}"])


def test_queue_gets_no_gradient() -> None:
    views = make_views(6, 9, torch.float64, queued=4)
    queue = [z.requires_grad_() for z in views.queue or []]
    assert not sslkern.swav_loss(views.high, views.low, queue).requires_grad
    views.low[0].requires_grad_()
    sslkern.swav_loss(views.high, views.low, queue).backward()
    assert [z.grad for z in queue] == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.T.contiguous().T,
        lambda z: torch.cat([z, z], dim=1)[:, : z.shape[1]],
        lambda z: torch.stack([z, z], dim=1)[:, 1],
        lambda z: torch.stack([z, z], dim=2)[:, :, 0],
        lambda z: torch.cat([torch.zeros(1, z.shape[1], dtype=z.dtype), z])[1:],
        lambda z: torch.cat([z[:, :1], z], dim=1)[:, 1:],
    ],
    ids=["transposed", "row-stride", "interleaved", "column-stride", "offset", "unaligned"],
)
def test_views_of_memory_give_the_same_numbers(
    dtype: torch.dtype, view: Callable[[Tensor], Tensor]
) -> None:
    x = make_views(7, 1024 + 48, dtype, 2, 1, queued=5)
    expected = evaluate(sslkern.swav_loss, x, dtype)
    y = x.map(lambda z: view(z).detach())
    leaves = [z.requires_grad_() for z in (*y.high, *y.low)]
    loss = sslkern.swav_loss(y.high, y.low, y.queue)
    grads = torch.autograd.grad(loss, leaves)
    assert torch.equal(loss, expected["loss"])
    assert all(torch.equal(g, expected[f"grad {i}"]) for i, g in enumerate(grads))


def test_crops_that_are_slices_of_one_matrix() -> None:
    """As a network returns them for all crops at once."""
    x = make_views(6, 40, torch.float32, 2, 2)
    expected = evaluate(sslkern.swav_loss, x, torch.float32)
    whole = torch.cat([*x.high, *x.low]).requires_grad_()
    crops = whole.chunk(4)
    loss = sslkern.swav_loss(crops[:2], crops[2:])
    loss.backward()
    assert torch.equal(loss, expected["loss"])
    assert whole.grad is not None
    assert torch.equal(whole.grad, torch.cat([expected[f"grad {i}"] for i in range(4)]))


def test_one_view_may_serve_as_all() -> None:
    """The same tensor: its gradient is the sum of those of its parts."""
    x = make_views(6, 40, torch.float64)
    z = x.high[0]
    expected = evaluate(sslkern.swav_loss, Views([z, z], [z]), torch.float64)
    leaf = z.clone().requires_grad_()
    sslkern.swav_loss([leaf, leaf], [leaf]).backward()
    assert leaf.grad is not None
    close(leaf.grad, sum((expected[f"grad {i}"] for i in range(3)), start=torch.zeros(())))


@pytest.mark.not_emulated
def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    distance, k = 2**31 + 64, 40
    x = make_views(2, k, torch.bfloat16)
    try:  # of which two pages are ever touched
        storage = torch.empty(distance + k, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this system does not lend 4 GiB of addresses")
    far = storage.as_strided((2, k), (distance, 1)).copy_(x.high[0])
    expected = sslkern.swav_loss(x.high, x.low)
    assert torch.equal(sslkern.swav_loss([far, x.high[1]], x.low), expected)
    assert torch.equal(sslkern.swav_loss([x.high[1], far], x.low), expected)


# ---- memory and order of work

MEMORY = """
import json, sys, torch, sslkern
from sslkern.bench.peak import _peak, _reset_peak

views, rows, prototypes, name = json.loads(sys.argv[1])
torch.set_num_threads(1)
if name == "sslkern":
    loss_fn = sslkern.swav_loss
else:
    loss_fn = sslkern.reference.swav_loss

def measure(step):
    before = _reset_peak()
    result = step()
    peak = _peak()
    return result, None if before is None or peak is None else peak - before

def measure_both(rows):
    scores = [torch.randn(rows, prototypes, requires_grad=True) for _ in range(views)]
    loss, forward = measure(lambda: loss_fn(scores[:2], scores[2:]))
    _, backward = measure(loss.backward)
    return forward, backward

measure_both(8)
print(json.dumps(measure_both(rows)))
"""


def peaks(name: str, rows: int, prototypes: int) -> tuple[int, int]:
    """Bytes that a forward pass needs beyond 2 + 6 crops, a backward pass beyond their gradients.

    In a process of their own.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # as sslkern.bench.peak
    command = [sys.executable, "-c", MEMORY, json.dumps((8, rows, prototypes, name))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    forward, backward = json.loads(done.stdout)
    if forward is None or backward is None:
        pytest.skip("this system does not tell the peak of resident memory")
    return forward, backward - 8 * rows * prototypes * 4


@pytest.mark.cpu_only
def test_memory_holds_no_matrix_beside_the_scores_and_their_gradients() -> None:
    """Neither an assignment nor a log-softmax of any of 2 + 6 crops."""
    rows, prototypes = 1024, 3000
    matrix = rows * prototypes * 4
    assert max(peaks("sslkern", rows, prototypes)) < matrix / 4
    assert peaks("eager", rows, prototypes)[0] > 8 * matrix


def test_nothing_of_the_size_of_the_scores_is_kept_but_themselves() -> None:
    x = make_views(20, 500, torch.float32, 2, 2, queued=30)
    kept: list[Tensor] = []

    def pack(z: Tensor) -> Tensor:
        kept.append(z)
        return z

    leaves = [z.requires_grad_() for z in (*x.high, *x.low)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda z: z):
        sslkern.swav_loss(x.high, x.low, x.queue)
    own = {z.data_ptr() for z in leaves}
    assert own == {z.data_ptr() for z in kept} & own
    assert all(z.numel() <= 2 * 500 for z in kept if z.data_ptr() not in own)


@pytest.mark.parametrize("group", ["high", "low"])
def test_changing_a_view_before_backward_is_an_error(group: str) -> None:
    x = make_views(6, 9, torch.float32)
    x.high[0].requires_grad_()
    changed = x.high[1] if group == "high" else x.low[0]
    loss = sslkern.swav_loss(x.high, x.low)
    changed.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_queue_may_change_between_forward_and_backward() -> None:
    """It is filled there."""
    x = make_views(6, 9, torch.float32, queued=4)
    expected = evaluate(sslkern.swav_loss, x, torch.float32)
    leaf = x.low[0].requires_grad_()
    loss = sslkern.swav_loss(x.high, x.low, x.queue)
    for z in x.queue or []:
        z.zero_()
    loss.backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected["grad 2"])


def test_no_grad_gives_the_same_loss() -> None:
    x = make_views(6, 9, torch.float32)
    expected = sslkern.swav_loss(x.high, x.low)
    x.high[0].requires_grad_()
    with torch.no_grad():
        loss = sslkern.swav_loss(x.high, x.low)
    assert not loss.requires_grad
    assert torch.equal(loss, expected)


def test_works_inside_inference_mode() -> None:
    x = make_views(6, 9, torch.float32, queued=4)
    with torch.inference_mode():
        assert sslkern.swav_loss(x.high, x.low, x.queue).isfinite()


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 128, 3000])
@pytest.mark.parametrize(("high", "low"), [(1, 1), (2, 0), (2, 6)])
def test_equal_scores_give_log_of_the_number_of_prototypes(
    high: int, low: int, k: int, dtype: torch.dtype
) -> None:
    result = evaluate(
        sslkern.swav_loss,
        Views([torch.full((5, k), 0.7)] * high, [torch.full((5, k), -0.3)] * low),
        dtype,
    )
    working = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert abs(result["loss"].item() - math.log(k)) < 16 * working
    slope = 1 / (0.1 * 5)
    assert all(result[f"grad {i}"].abs().max() < 16 * working * slope for i in range(high + low))


@pytest.mark.parametrize("epsilon", [1.0, 0.25, 0.05])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_two_by_two_has_a_closed_form(temperature: float, epsilon: float) -> None:
    """Both views the identity: q = sigmoid(1 / epsilon) meets a student of sigmoid(1 / tau)."""
    z = torch.eye(2, dtype=torch.float64)
    result = evaluate(
        sslkern.swav_loss, Views([z, z], []), torch.float64,
        temperature=temperature, epsilon=epsilon,
    )  # fmt: skip
    q, p = (1 / (1 + math.exp(-1 / x)) for x in (epsilon, temperature))
    expected = -q * math.log(p) - (1 - q) * math.log1p(-p)
    assert abs(result["loss"].item() - expected) < 1e-14 + 1e-12 * expected
    # Of the mean over two rows, and each view is met by one target in two pairs.
    slope = (p - q) / temperature / 4
    gradient = torch.tensor([[slope, -slope], [-slope, slope]], dtype=torch.float64)
    assert (result["grad 0"] - gradient).abs().max() < 1e-12 / temperature
    assert torch.equal(result["grad 0"], result["grad 1"])


def test_the_limit_of_two_by_two() -> None:
    """Of many iterations: the logistic function of half the difference of both assignments."""
    s = torch.tensor([[0.7, 0.2], [0.5, 0.6]], dtype=torch.float64)
    q = 0.7685247834990176  # sigmoid(0.6 / 0.5)
    z = torch.zeros(2, 2, dtype=torch.float64)
    z[:, 0] = 0.2  # p = sigmoid(2) for both rows
    loss = sslkern.swav_loss([s], [z], epsilon=0.25, iterations=2000)
    p = 1 / (1 + math.exp(-2))
    expected = -0.5 * (q + (1 - q)) * (math.log(p) + math.log1p(-p))
    assert abs(loss.item() - expected) < 1e-12
    z[1] = 0  # now the first row alone tells q
    loss = sslkern.swav_loss([s], [z], epsilon=0.25, iterations=2000)
    expected = 0.5 * (-q * math.log(p) - (1 - q) * math.log1p(-p) + math.log(2))
    assert abs(loss.item() - expected) < 1e-11


def test_one_assigned_view_learns_nothing_itself() -> None:
    """It is the target of all others and of itself not."""
    result = evaluate(sslkern.swav_loss, make_views(6, 9, torch.float32, 1, 3), torch.float32)
    assert result["grad 0"].abs().max() == 0
    assert all(result[f"grad {i}"].abs().max() > 0 for i in (1, 2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_large_scores_stay_finite(offset: float, dtype: torch.dtype) -> None:
    """Scores near 1e4: exponents near a million."""
    x = make_views(5, 200, dtype, 2, 1).map(lambda z: (z + offset).to(dtype))
    result = evaluate(sslkern.swav_loss, x, dtype, epsilon=0.05, temperature=0.01)
    assert all(value.isfinite().all() for value in result.values())
    assert_like_reference(x, 0.01)


def columns(case: str, k: int) -> Tensor:
    """Some of K prototypes: at random places, whole blocks of 1024, or all but one."""
    index = torch.arange(k)
    masks = {
        "scattered": index % 3 == 1,
        "first block": index < 1024,
        "last block": index >= k - 1024,
    }
    return masks[case]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["scattered", "first block", "last block"])
@pytest.mark.parametrize("queued", [0, 3])
def test_prototypes_excluded_from_some_rows(case: str, queued: int, dtype: torch.dtype) -> None:
    """In all views alike: 0 * inf must not become NaN."""
    x = make_views(4, 3000, dtype, 2, 2, queued)
    mask = columns(case, 3000)
    for z in (*x.high, *x.low):
        z[1:3, mask] = -INF
    assert_like_reference(x)
    result = evaluate(sslkern.swav_loss, x, dtype)
    assert all(value.isfinite().all() for value in result.values())
    assert all(result[f"grad {i}"][1:3, mask].abs().max() == 0 for i in range(4))


def test_a_target_that_a_view_excludes_costs_infinity() -> None:
    x = make_views(4, 40, torch.float32, 2, 1)
    x.low[0][2, x.high[0][2].argmax()] = -INF
    assert sslkern.swav_loss(x.high, x.low) == INF
    assert reference.swav_loss(x.high, x.low) == INF


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.parametrize("place", [37, 2999])
@pytest.mark.parametrize("where", ["high", "low", "queue"])
def test_nan_and_infinity_show(where: str, place: int, value: float, dtype: torch.dtype) -> None:
    x = make_views(4, 3000, dtype, 2, 1, queued=3)
    group = {"high": x.high, "low": x.low, "queue": x.queue or []}[where]
    group[0][1, place] = value
    result = evaluate(sslkern.swav_loss, x, dtype)
    assert not result["loss"].isfinite()
    expected = evaluate(reference.swav_loss, x, torch.float64)
    for name, exact in expected.items():
        assert not result[name][exact.isnan()].isfinite().any(), name


# ---- properties


@pytest.mark.parametrize("queued", [0, 7])
def test_loss_is_made_of_sinkhorn_and_cross_entropy(queued: int) -> None:
    """Of the other operators of this package."""
    x = make_views(20, 50, torch.float64, 2, 3, queued)
    everyone = [*x.high, *x.low]
    queues = x.queue or [None, None]
    q = [sslkern.sinkhorn(z, queue=y) for z, y in zip(x.high, queues, strict=True)]
    pairs = [(i, v) for i in range(2) for v in range(5) if v != i]
    terms = [
        sslkern.soft_cross_entropy(everyone[v], q[i], from_probabilities=True) for i, v in pairs
    ]
    close(sslkern.swav_loss(x.high, x.low, x.queue), torch.stack(terms).mean())


def test_empty_queue_is_none() -> None:
    x = make_views(20, 50, torch.float32)
    empty = [z[:0] for z in x.high]
    assert torch.equal(sslkern.swav_loss(x.high, x.low, empty), sslkern.swav_loss(x.high, x.low))


def test_the_order_of_views_does_not_matter() -> None:
    x = make_views(20, 50, torch.float64, 3, 3, queued=6)
    y = Views(x.high[::-1], x.low[::-1], (x.queue or [])[::-1])
    expected = evaluate(sslkern.swav_loss, x, torch.float64)
    moved = evaluate(sslkern.swav_loss, y, torch.float64)
    order = [2, 1, 0, 5, 4, 3]
    close(moved["loss"], expected["loss"])
    for i, j in enumerate(order):
        close(moved[f"grad {i}"], expected[f"grad {j}"])


@pytest.mark.parametrize("what", ["rows", "prototypes"])
def test_the_order_of_rows_and_prototypes_does_not_matter(what: str) -> None:
    x = make_views(40, 130, torch.float64, 2, 2, queued=9)
    order = torch.randperm(
        40 if what == "rows" else 130, generator=torch.Generator().manual_seed(1)
    )

    def move(z: Tensor) -> Tensor:
        if what == "rows":
            return z[order] if len(z) == 40 else z.flip(0)
        return z[:, order]

    expected = evaluate(sslkern.swav_loss, x, torch.float64)
    moved = evaluate(sslkern.swav_loss, x.map(move), torch.float64)
    all_close(moved, {n: move(v) if v.dim() else v for n, v in expected.items()}, 1e-11)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_constants_of_rows_change_no_prediction(size: float) -> None:
    """Of views that only predict."""
    x = make_views(20, 50, torch.float64, 2, 2)
    shift = torch.linspace(-size, size, 20, dtype=torch.float64)[:, None]
    expected = evaluate(sslkern.swav_loss, x, torch.float64)
    shifted = evaluate(sslkern.swav_loss, Views(x.high, [z + shift for z in x.low]), torch.float64)
    all_close(shifted, expected, 1e-11 * size)


def test_constants_of_prototypes_change_no_assignment() -> None:
    """Where one view alone is assigned: its targets, and the loss, stay."""
    x = make_views(20, 50, torch.float64, 1, 2)
    shift = torch.linspace(-1, 1, 50, dtype=torch.float64)
    expected = evaluate(sslkern.swav_loss, x, torch.float64)
    shifted = evaluate(sslkern.swav_loss, Views([x.high[0] + shift], x.low), torch.float64)
    all_close(shifted, expected, 1e-11)


def test_gradient_of_a_row_sums_to_zero() -> None:
    result = evaluate(sslkern.swav_loss, make_views(20, 50, torch.float64, 2, 2), torch.float64)
    assert all(result[f"grad {i}"].sum(1).abs().max() < 1e-13 for i in range(4))


def test_repeated_rows_have_the_same_loss() -> None:
    x = make_views(20, 50, torch.float64, 2, 2, queued=7)
    twice = evaluate(sslkern.swav_loss, x.map(lambda z: torch.cat([z, z])), torch.float64)
    expected = evaluate(sslkern.swav_loss, x, torch.float64)
    all_close(twice, {n: torch.cat([v, v]) / 2 if v.dim() else v for n, v in expected.items()})


# ---- peers


def lightly() -> Any:
    try:
        return peers.import_peer("lightly", "lightly.loss.swav_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.2, "sinkhorn_epsilon": 0.03, "sinkhorn_iterations": 10},
])  # fmt: skip
@pytest.mark.parametrize("queued", [0, 30])
@pytest.mark.parametrize(("high", "low"), VIEWS)
def test_equals_lightly(high: int, low: int, queued: int, options: Options) -> None:
    x = make_views(20, 70, torch.float64, high, low, queued)
    theirs = evaluate(lightly().SwaVLoss(**options), x, torch.float64)
    ours = evaluate(SwaVLoss(**options), x, torch.float64)
    theirs["loss"] = theirs["loss"].squeeze()  # of one element
    for name, expected in theirs.items():
        if name == "grad 0" and high == 1:  # the target of the others
            assert ours[name].abs().max() == 0
        close(ours[name], expected, 1e-6)


@pytest.mark.parametrize(
    ("dtype", "epsilon"), [(torch.float32, 0.0113), (torch.float32, 0.005), (torch.float16, 0.05)]
)
def test_finite_where_lightly_is_not(dtype: torch.dtype, epsilon: float) -> None:
    z = torch.eye(8).to(dtype)
    x = Views([z, z.flip(0)], [z])
    assert not lightly().SwaVLoss(sinkhorn_epsilon=epsilon)(*x[:2]).isfinite().all()
    result = evaluate(sslkern.swav_loss, x, dtype, epsilon=epsilon)
    assert all(value.isfinite().all() for value in result.values())
    assert_like_reference(x, epsilon=epsilon)


# ---- determinism


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "k"), [(5, 300), (2, 4101), (130, 11)])
def test_bitwise_the_same_twice(b: int, k: int, dtype: torch.dtype) -> None:
    """Also where the second run has threads in another order."""
    x = make_views(b, k, dtype, 2, 2, queued=b // 3 + 1)
    expected = evaluate(sslkern.swav_loss, x, dtype)
    assert all_equal(evaluate(sslkern.swav_loss, x, dtype), expected)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("b", "k"), [(300, 300), (5, 20000), (5000, 11)])
def test_bitwise_the_same_for_any_thread_count(b: int, k: int, dtype: torch.dtype) -> None:
    x = make_views(b, k, dtype, 2, 2, queued=b // 3 + 1)
    expected = evaluate(sslkern.swav_loss, x, dtype)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        assert all_equal(evaluate(sslkern.swav_loss, x, dtype), expected)


def test_inputs_are_left_alone() -> None:
    x = make_views(20, 1030, torch.float32, 2, 2, queued=7)
    given = [*x.high, *x.low, *(x.queue or [])]
    before = [z.clone() for z in given]
    for z in (*x.high, *x.low):
        z.requires_grad_()
    sslkern.swav_loss(x.high, x.low, x.queue).backward()
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


# ---- errors

Z = make_views(4, 5, torch.float32).high[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # how many
        ({"high_res": []}, ValueError, "high_res and low_res to be at least two views, one of"),
        (
            {"high_res": [], "low_res": [Z, Z]},
            ValueError,
            "high_res and low_res to be at least two views, one of them in high_res, got 0 and 2",
        ),
        (
            {"high_res": [Z]},
            ValueError,
            "high_res and low_res to be at least two views, one of them in high_res, got 1 and 0",
        ),
        ({"high_res": Z}, TypeError, "high_res to be a list or tuple of tensors, got Tensor"),
        ({"low_res": Z}, TypeError, "low_res to be a list or tuple of tensors, got Tensor"),
        ({"low_res": None}, TypeError, "low_res to be a list or tuple of tensors, got NoneType"),
        # views
        ({"high_res": [Z, 1.0]}, TypeError, r"high_res\[1\] to be a tensor, got float"),
        ({"low_res": [None]}, TypeError, r"low_res\[0\] to be a tensor, got NoneType"),
        ({"high_res": [Z[0], Z]}, ValueError, r"high_res\[0\] to be of shape .* shape \(5,\)"),
        ({"low_res": [Z, Z[None]]}, ValueError, r"low_res\[1\] to be of shape .* \(1, 4, 5\)"),
        ({"high_res": [Z[:0]] * 2}, ValueError, r"high_res\[0\] to be .* no empty .* \(0, 5\)"),
        ({"high_res": [Z[:, :0]] * 2}, ValueError, r"high_res\[0\] to be .* \(4, 0\)"),
        (
            {"high_res": [Z, Z[:3]]},
            ValueError,
            r"high_res\[1\] to be of the batch size of high_res\[0\], 4, got 3",
        ),
        (
            {"low_res": [Z, Z[:2]]},
            ValueError,
            r"low_res\[1\] to be of the batch size of high_res\[0\], 4, got 2",
        ),
        (
            {"low_res": [Z[:, :3]]},
            ValueError,
            r"low_res\[0\] to be of the prototypes of high_res\[0\], 5, got 3",
        ),
        ({"high_res": [Z, Z.double()]}, TypeError, r"view 1 to be of the dtype of view 0"),
        ({"low_res": [Z.bfloat16()]}, TypeError, r"view 2 to be of the dtype of view 0"),
        ({"low_res": [Z.long()]}, TypeError, r"view 2 to be of dtype .* got torch.int64"),
        ({"low_res": [Z.to_sparse()]}, TypeError, r"view 2 to be a dense tensor, got layout"),
        # numbers
        *(
            ({name: value}, error, name + message)
            for name in ("epsilon", "temperature")
            for value, error, message in (
                (0.0, ValueError, " to be positive and finite, got 0"),
                (-1, ValueError, " to be positive and finite, got -1"),
                (math.nan, ValueError, " to be positive and finite, got nan"),
                (INF, ValueError, " to be positive and finite, got inf"),
                (True, TypeError, " to be a number, got bool"),
                ("0.1", TypeError, " to be a number, got str"),
                (None, TypeError, " to be a number, got NoneType"),
            )
        ),
        ({"iterations": -1}, ValueError, "iterations to be at least 0, got -1"),
        ({"iterations": 1.0}, TypeError, "iterations to be a whole number, got float"),
        # queue
        ({"queue": Z}, TypeError, "queue to be a list or tuple of tensors, got Tensor"),
        ({"queue": [Z]}, ValueError, "queue to be one for each view of high_res, 2, got 1"),
        ({"queue": [Z] * 3}, ValueError, "queue to be one for each view of high_res, 2, got 3"),
        ({"queue": [Z, None]}, TypeError, r"queue\[1\] to be a tensor, got NoneType"),
        (
            {"queue": [Z, Z[0]]},
            ValueError,
            r"queue\[1\] to be of shape \(L, K\) with the K of high_res\[1\], 5, got shape \(5,\)",
        ),
        ({"queue": [Z[:, :3], Z]}, ValueError, r"queue\[0\] to be .* got shape \(4, 3\)"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::swapped_prediction: expected " + message):
        sslkern.swav_loss(**{"high_res": [Z, Z], **options})


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (Z.double(), TypeError, "queue to be of the dtype of scores"),
        (Z.long(), TypeError, "queue to be of dtype"),
        (Z.to_sparse(), TypeError, "queue to be a dense tensor"),
    ],
)
def test_queue_is_refused_where_it_is_assigned(
    rows: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^sslkern::sinkhorn: expected {message}"):
        sslkern.swav_loss([Z, Z], queue=[Z, rows])


def test_operators_check_what_the_public_function_sees_to() -> None:
    fwd, bwd = torch.ops.sslkern.swapped_prediction_fwd, torch.ops.sslkern.swapped_prediction_bwd
    g = torch.zeros(2, 5, dtype=torch.float64)
    _, stats = fwd([Z, Z], g, 0.1, 0.05)
    one = torch.ones(())
    for views, potential, numbers, message in (
        ([Z], g, (0.1, 0.05), "views to be at least two, got 1"),
        ([Z[0], Z[0]], g, (0.1, 0.05), r"view 0 to be of shape \(B, K\)"),
        ([Z, Z[:3]], g, (0.1, 0.05), r"view 1 to be of the shape of view 0, \(4, 5\)"),
        ([Z, Z], g[0], (0.1, 0.05), r"potential to be of shape \(A, K\) with K = 5"),
        ([Z, Z], g[:, :4], (0.1, 0.05), r"potential to be of shape \(A, K\) with K = 5"),
        ([Z, Z], g[:0], (0.1, 0.05), r"potential to be of shape \(A, K\) with K = 5"),
        ([Z, Z], g.repeat(2, 1), (0.1, 0.05), "A at most the number of views"),
        ([Z, Z], g.float(), (0.1, 0.05), "and dtype torch.float64, got .* torch.float32"),
        ([Z, Z], g, (0.0, 0.05), "temperature to be positive and finite, got 0"),
        ([Z, Z], g, (0.1, math.nan), "epsilon to be positive and finite, got nan"),
    ):
        for call in (
            lambda v=views, p=potential, n=numbers: fwd(v, p, *n),
            lambda v=views, p=potential, n=numbers: bwd(one, v, p, stats, *n),
        ):
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match="stats to be what the forward pass returned"):
        bwd(one, [Z, Z], g, stats[1:], 0.1, 0.05)
    with pytest.raises(ValueError, match="grad_loss to be a number or a tensor with one element"):
        bwd(torch.ones(2), [Z, Z], g, stats, 0.1, 0.05)


def test_a_device_takes_64_views(backend: str) -> None:
    """Where they are goes to its kernels with the launch."""
    assert sslkern.swav_loss([Z] * 64).isfinite()
    if backend == "cpu":
        assert sslkern.swav_loss([Z] * 65).isfinite()
        return
    message = (
        "^sslkern::swapped_prediction: expected views to be at most 64 on a CUDA device, got 65"
    )
    with pytest.raises(NotImplementedError, match=message):
        sslkern.swav_loss([Z] * 65)


def test_second_derivative_is_refused() -> None:
    z = Z.clone().requires_grad_()
    loss = sslkern.swav_loss([Z, z])
    (grad,) = torch.autograd.grad(loss, z, create_graph=True)
    with pytest.raises(
        NotImplementedError, match=r"sslkern::swapped_prediction: expected the grad.*swav_loss"
    ):
        grad.square().sum().backward()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature to be positive and finite, got 0"),
        ({"sinkhorn_epsilon": -1.0}, ValueError, "sinkhorn_epsilon to be positive and finite"),
        ({"sinkhorn_epsilon": "0.1"}, TypeError, "sinkhorn_epsilon to be a number, got str"),
        ({"sinkhorn_iterations": -1}, ValueError, "iterations to be at least 0, got -1"),
        ({"sinkhorn_iterations": 0.5}, TypeError, "iterations to be a whole number, got float"),
    ],
)
def test_module_refuses(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sslkern::swapped_prediction: expected {message}"):
        SwAVLoss(**options)


def test_one_process_has_nothing_to_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SwAVLoss(sinkhorn_gather_distributed=True)
    expected = SwAVLoss()([Z, Z])
    assert torch.equal(module([Z, Z]), expected)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 1)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: 0)
    assert torch.equal(module([Z, Z]), expected)
    with pytest.raises(ValueError, match="process_group to be None without gather_distributed"):
        SwAVLoss(process_group="a group")([Z, Z])


# ---- torch integration


def test_module_equals_function() -> None:
    x = make_views(7, 8, torch.float32, 2, 2, queued=5)
    loss_fn = SwAVLoss(0.2, 5, 0.03)
    options: Options = {"temperature": 0.2, "epsilon": 0.03, "iterations": 5}
    for arguments in (x[:1], x[:2], x):
        assert torch.equal(loss_fn(*arguments), sslkern.swav_loss(*arguments, **options))
        assert torch.equal(SwAVLoss()(*arguments), sslkern.swav_loss(*arguments))
    named = loss_fn(
        high_resolution_outputs=x.high, low_resolution_outputs=x.low, queue_outputs=x.queue
    )
    assert torch.equal(named, sslkern.swav_loss(*x, **options))
    assert SwaVLoss is SwAVLoss
    assert repr(loss_fn) == (
        "SwAVLoss(temperature=0.2, sinkhorn_iterations=5, sinkhorn_epsilon=0.03)"
    )


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("high", "low"), [(1, 1), (2, 0), (2, 2)])
@pytest.mark.parametrize("wanted", ["all", "last", "none"])
def test_opcheck(wanted: str, high: int, low: int, dtype: torch.dtype) -> None:
    x = make_views(6, 9, dtype, high, low)
    views = [*x.high, *x.low]
    for z in {"all": views, "last": views[-1:], "none": []}[wanted]:
        z.requires_grad_()
    g = torch.linspace(-1, 1, 9 * high, dtype=torch.float64).reshape(high, 9)
    torch.library.opcheck(torch.ops.sslkern.swapped_prediction_fwd, (views, g, 0.1, 0.05))


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("queued", [0, 5])
def test_compiles_without_graph_break(queued: int, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.swav_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for b in (6, 9):
        x = make_views(b, b + 4, torch.float32, 2, 2, queued)
        expected = evaluate(sslkern.swav_loss, x, torch.float32)
        assert all_equal(evaluate(compiled, x, torch.float32), expected)


@pytest.mark.not_emulated
def test_compiles_with_numbers_that_change() -> None:
    """Schedules."""
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.swav_loss, backend="aot_eager", fullgraph=True)
    x = make_views(6, 9, torch.float32)
    for temperature, epsilon, iterations in (
        (0.1, 0.05, 3), (0.1, 0.04, 3), (0.2, 0.03, 3), (0.3, 0.03, 5), (0.3, 0.03, 7)
    ):  # fmt: skip
        options = {"temperature": temperature, "epsilon": epsilon, "iterations": iterations}
        expected = evaluate(sslkern.swav_loss, x, torch.float32, **options)
        assert all_equal(evaluate(compiled, x, torch.float32, **options), expected)


@pytest.mark.not_emulated
def test_module_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_views(6, 9, torch.float32, 2, 2)
    loss_fn = SwAVLoss()

    def training_loss(high: Sequence[Tensor], low: Sequence[Tensor], queue: None = None) -> Tensor:
        return loss_fn([z.sin() for z in high], [z * 2 for z in low]) + 1

    expected = evaluate(training_loss, x, torch.float32)
    actual = evaluate(torch.compile(training_loss, fullgraph=True), x, torch.float32)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value)


@pytest.mark.parametrize("wide", ["high", "low", "queue"])
def test_autocast_promotes_mixed_dtypes(wide: str) -> None:
    x = make_views(6, 40, torch.bfloat16, 2, 2, queued=5)
    expected = evaluate(sslkern.swav_loss, x, torch.float32)
    mixed = x._replace(**{wide: [z.float() for z in getattr(x, wide)]})
    leaves = [z.requires_grad_() for z in (*mixed.high, *mixed.low)]
    with autocast():
        loss = sslkern.swav_loss(*mixed)
    grads = torch.autograd.grad(loss, leaves)
    close(loss, expected["loss"], 1e-6)
    for i, (leaf, grad) in enumerate(zip(leaves, grads, strict=True)):
        assert grad.dtype == leaf.dtype
        close(grad, expected[f"grad {i}"], 1e-2 if leaf.dtype == torch.bfloat16 else 1e-6)


def test_autocast_trains_through_a_layer() -> None:
    prototypes = torch.nn.Linear(5, 40, bias=False)
    with autocast():
        scores = [prototypes(torch.randn(6, 5)) for _ in range(4)]
        loss = sslkern.swav_loss(scores[:2], scores[2:])
    loss.backward()
    assert scores[0].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert prototypes.weight.grad is not None
    assert prototypes.weight.grad.isfinite().all()
    assert prototypes.weight.grad.abs().max() > 0
