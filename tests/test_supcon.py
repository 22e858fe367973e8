"""SupCon, DCL and uniformity against their definitions, `sslkern.reference`, in float64."""

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

import sslkern
from sslkern import reference
from sslkern.accuracy import assert_accurate, cosine
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import DCLLoss, DCLWLoss, SupConLoss, negative_mises_fisher_weights

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]
VARIANTS = ["out", "in", "in_sum", "pairwise"]

# N around the micro-tiles of 6, 12, 16 and 32 and the tiles of 96, 192 (from 768 rows on) and 288
# (from 1536 on); D around vectors, the strip of 32 and the 256 dimensions of a pass.
SIZES = [
    (1, 1), (1, 130), (2, 3), (5, 32), (6, 31), (7, 33), (11, 257), (12, 16), (13, 1), (15, 64),
    (16, 127), (17, 128), (31, 7), (32, 256), (33, 100), (95, 130), (96, 64), (97, 3), (191, 33),
    (192, 16), (194, 257), (288, 5), (290, 40), (520, 8),
]  # fmt: skip
LARGE_SIZES = [(770, 8), (1730, 3)]

CLASSES = {
    "one": lambda n: torch.zeros(n, dtype=torch.int64),
    "distinct": lambda n: shuffled(torch.arange(n)),
    "pairs": lambda n: shuffled(torch.arange(n) // 2),
    "two": lambda n: shuffled(torch.arange(n) % 2),
    "hundred": lambda n: shuffled(torch.arange(n) % 100),
    "single": lambda n: shuffled((torch.arange(n) % 3).index_fill(0, torch.tensor([n // 2]), 7)),
    "in order": lambda n: torch.arange(n) // 7,
    "any int64": lambda n: shuffled(EXTREMES[torch.arange(n) % len(EXTREMES)]),
}
"""Labels of N rows, by name."""

EXTREMES = torch.tensor([2**63 - 1, -(2**63), -1, 0, 2**32, 2**32 + 1, -5])

Options = dict[str, Any]


def shuffled(labels: Tensor) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]


class Inputs(NamedTuple):
    """Rows that correlate within their class, and one upstream gradient per row."""

    z: Tensor
    labels: Tensor
    grad: Tensor


def make_inputs(n: int, d: int, dtype: torch.dtype, classes: str = "hundred") -> Inputs:
    g = torch.Generator().manual_seed(0)
    labels = CLASSES[classes](n)
    _, index = labels.unique(return_inverse=True)
    centers = torch.randn(n, d, generator=g, dtype=torch.float64)
    z = centers[index] + torch.randn(n, d, generator=g, dtype=torch.float64)
    grad = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return Inputs(z.to(dtype), labels, grad)


class Views(NamedTuple):
    """Correlated views and one upstream gradient per row."""

    z_a: Tensor
    z_b: Tensor
    grad: Tensor


def make_views(batch: int, d: int, dtype: torch.dtype) -> Views:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(batch, d, generator=g, dtype=torch.float64)
    z_b = z + torch.randn(batch, d, generator=g, dtype=torch.float64)
    grad = torch.rand(2 * batch, generator=g, dtype=torch.float64) + 0.5
    return Views(z.to(dtype), z_b.to(dtype), grad)


def evaluate(
    function: Callable[..., Tensor],
    matrices: dict[str, Tensor],
    grad: Tensor,
    dtype: torch.dtype,
    temperature: float = 0.1,
    **options: object,
) -> dict[str, Tensor]:
    """The loss of every row and all gradients, by name."""
    leaves = {name: z.to(dtype) for name, z in matrices.items()}
    leaves["temperature"] = torch.tensor(temperature, dtype=torch.float64)
    leaves = {name: z.clone().requires_grad_() for name, z in leaves.items()}
    loss = function(**leaves, reduction="none", **options)
    loss.backward(grad.to(loss.dtype))
    results = {"loss": loss.detach()}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        results[f"grad_{name}"] = leaf.grad
    return results


def evaluate_supcon(x: Inputs, temperature: float = 0.1, **options: object) -> dict[str, Tensor]:
    options = {"labels": x.labels, **options}
    function = sslkern.supcon_loss
    return evaluate(function, {"z": x.z}, x.grad, x.z.dtype, temperature, **options)


def evaluate_dcl(x: Views, temperature: float = 0.1, **options: object) -> dict[str, Tensor]:
    matrices = {"z_a": x.z_a, "z_b": x.z_b}
    return evaluate(sslkern.dcl_loss, matrices, x.grad, x.z_a.dtype, temperature, **options)


def assert_like_reference(
    name: str,
    matrices: dict[str, Tensor],
    grad: Tensor,
    temperature: float = 0.1,
    pairs: int = 1,
    **options: object,
) -> None:
    """The accuracy rule for the loss and every gradient.

    Errors are relative to the terms and not to what is left where positives dominate and they
    cancel: 1 per pair for the loss, |z| / tau per unit of upstream gradient for the gradients. The
    rule's floor of 64 eps is for logits up to 64: where a negative dominates, the rounding of a
    logit does not cancel against that of a positive, and it grows with the logit.
    """
    ours, theirs = getattr(sslkern, name), getattr(reference, name)
    dtype = next(iter(matrices.values())).dtype
    actual = evaluate(ours, matrices, grad, dtype, temperature, **options)
    eager = evaluate(theirs, matrices, grad, dtype, temperature, **options)
    exact = evaluate(theirs, matrices, grad, torch.float64, temperature, **options)
    norms = torch.cat([z.double().norm(dim=-1).flatten() for z in matrices.values()])
    normalize = options.get("normalize", True) is True
    norm = 1.0 if normalize else float(norms.max())
    beyond = max(1.0, norm**2 / temperature / 64)
    inner = pairs * float(grad.max()) * norm / temperature
    inner /= float(norms.min()) if normalize else 1.0
    terms = {
        "loss": beyond * pairs,
        "grad_temperature": beyond * pairs * float(grad.sum()) * norm**2 / temperature**2,
    }
    for name, expected in exact.items():
        # The floor of half gradients is that of storing them, whatever the logits.
        term = terms.get(name, inner if dtype in HALF else beyond * inner)
        scale = max(term, float(expected.abs().max()))
        got, plain = actual[name], eager[name]
        if name == "grad_temperature":  # float64; the work behind it is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        what = f"{name}, {dtype}, {[tuple(z.shape) for z in matrices.values()]}, {temperature}"
        assert_accurate(got, plain, expected, what, scale=scale)


def assert_supcon_like_reference(x: Inputs, temperature: float = 0.1, **options: object) -> None:
    pairs = 1
    if options.get("variant") == "pairwise":
        _, counts = x.labels.unique(return_counts=True)
        pairs = max(int(counts.max()) * len(x.grad) // len(x.labels) - 1, 1)
    options = {"labels": x.labels, **options}
    assert_like_reference("supcon_loss", {"z": x.z}, x.grad, temperature, pairs, **options)


def assert_dcl_like_reference(x: Views, temperature: float = 0.1, **options: object) -> None:
    matrices = {"z_a": x.z_a, "z_b": x.z_b}
    assert_like_reference("dcl_loss", matrices, x.grad, temperature, **options)


# ---- the references themselves


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_reference_passes_gradcheck(variant: str, reduction: str) -> None:
    """Of its rows, one has no positive and two have several."""
    x = make_inputs(6, 4, torch.float64)
    labels = torch.tensor([3, 1, 3, 1, 3, 0])
    tau = torch.tensor(0.3, dtype=torch.float64)
    inputs = [z.requires_grad_() for z in (x.z, tau, x.grad)]

    def loss(z: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return reference.supcon_loss(
            z, labels, t, variant=variant, base_temperature=0.07, weight=w, reduction=reduction
        )

    assert torch.autograd.gradcheck(loss, inputs)


def test_references_of_dcl_and_uniformity_pass_gradcheck() -> None:
    x = make_views(3, 4, torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (x.z_a.requires_grad_(), x.z_b.requires_grad_(), tau)
    assert torch.autograd.gradcheck(reference.dcl_loss, inputs)
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reference.uniformity, (x.z_a, t))


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_equals_loops_over_the_rows(variant: str) -> None:
    """The formulas of the docstring, one term at a time."""
    x = make_inputs(9, 4, torch.float64, "single")
    unit = F.normalize(x.z)
    s = (unit @ unit.T / 0.2).tolist()
    expected = []
    for i in range(9):
        others = [j for j in range(9) if j != i]
        positives = [s[i][j] for j in others if x.labels[j] == x.labels[i]]
        negatives = [s[i][j] for j in others if x.labels[j] != x.labels[i]]
        everything = sum(map(math.exp, positives + negatives))
        inside = sum(map(math.exp, positives))
        if not positives:
            loss = 0.0
        elif variant == "out":
            loss = sum(math.log(everything) - p for p in positives) / len(positives)
        elif variant == "pairwise":
            loss = sum(math.log1p(sum(math.exp(n - p) for n in negatives)) for p in positives)
        else:
            loss = -math.log(inside / everything)
            loss += math.log(len(positives)) if variant == "in" else 0.0
        expected.append(loss)
    actual = reference.supcon_loss(x.z, x.labels, 0.2, variant=variant, reduction="none")
    torch.testing.assert_close(
        actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_reference(variant: str, n: int, d: int, dtype: torch.dtype) -> None:
    assert_supcon_like_reference(make_inputs(n, d, dtype, "single"), variant=variant)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), LARGE_SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_reference_on_large_tiles(variant: str, n: int, d: int, dtype: torch.dtype) -> None:
    assert_supcon_like_reference(make_inputs(n, d, dtype), variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [97, 250])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_reference_for_any_classes(
    variant: str, classes: str, n: int, dtype: torch.dtype
) -> None:
    assert_supcon_like_reference(make_inputs(n, 24, dtype, classes), variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.02, 0.017, 0.005, 1e-3])
@pytest.mark.parametrize("classes", ["pairs", "two", "single"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_reference_at_any_temperature(
    variant: str, classes: str, temperature: float, dtype: torch.dtype
) -> None:
    """Below 0.018 sums are shifted by their maximum."""
    assert_supcon_like_reference(make_inputs(130, 40, dtype, classes), temperature, variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_reference_without_normalization(
    variant: str, scale: float, dtype: torch.dtype
) -> None:
    x = make_inputs(110, 20, dtype, "single")
    x = x._replace(z=(x.z * scale).to(dtype))
    assert_supcon_like_reference(x, 0.3, variant=variant, normalize=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_views_of_samples_match_reference(
    variant: str, labelled: bool, views: int, dtype: torch.dtype
) -> None:
    x = make_inputs(40, 20, dtype, "two" if labelled else "distinct")
    z = x.z[:, None] + 0.5 * torch.randn(40, views, 20).to(dtype)
    x = Inputs(z, x.labels, x.grad.repeat(views))
    labels = x.labels if labelled else None
    assert_supcon_like_reference(x, variant=variant, labels=labels)


def test_views_of_samples_are_rows_of_their_labels() -> None:
    x = make_inputs(21, 8, torch.float32)
    z, labels = x.z.reshape(7, 3, 8), torch.arange(7) % 3
    loss = sslkern.supcon_loss(z, labels, reduction="none")
    assert torch.equal(
        loss, sslkern.supcon_loss(x.z, labels.repeat_interleave(3), reduction="none")
    )
    loss = sslkern.supcon_loss(z, reduction="none")
    rows = sslkern.supcon_loss(x.z, torch.arange(7).repeat_interleave(3), reduction="none")
    assert torch.equal(loss, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_base_temperature_matches_reference(variant: str, dtype: torch.dtype) -> None:
    x = make_inputs(60, 20, dtype, "single")
    assert_supcon_like_reference(x, 0.1, variant=variant, base_temperature=0.07)


@pytest.mark.parametrize("temperature", [0.3, 0.012])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_passes_gradcheck(
    variant: str, reduction: str, normalize: bool, temperature: float
) -> None:
    x = make_inputs(7, 5, torch.float64, "single")
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)

    def loss(z: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return sslkern.supcon_loss(
            z if normalize else z / 10,
            x.labels,
            t,
            variant=variant,
            base_temperature=0.1,
            normalize=normalize,
            weight=w,
            reduction=reduction,
        )

    inputs = (x.z.requires_grad_(), tau, x.grad.requires_grad_())
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", ["single", "distinct"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_reductions_and_weights_match_reference(
    variant: str, classes: str, weighted: bool, reduction: str
) -> None:
    x = make_inputs(50, 16, torch.float64, classes)
    options: Options = {"variant": variant, "reduction": reduction}
    options["weight"] = x.grad if weighted else None
    actual = sslkern.supcon_loss(x.z, x.labels, 0.2, **options)
    expected = reference.supcon_loss(x.z, x.labels, 0.2, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mean_is_over_rows_with_a_positive_or_over_pairs(variant: str) -> None:
    x = make_inputs(50, 16, torch.float64, "single")
    rows = sslkern.supcon_loss(x.z, x.labels, variant=variant, reduction="none")
    counts = (x.labels[:, None] == x.labels).sum(1) - 1
    assert bool((counts == 0).any())
    terms = counts if variant == "pairwise" else (counts > 0).long()
    mean = sslkern.supcon_loss(x.z, x.labels, variant=variant)
    torch.testing.assert_close(mean, rows.sum() / terms.sum())
    weighted = sslkern.supcon_loss(x.z, x.labels, variant=variant, weight=x.grad)
    torch.testing.assert_close(weighted, (x.grad * rows).sum() / (x.grad * terms).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rows", [1, 50])
def test_without_positives_the_loss_and_its_gradients_are_zero(
    rows: int, reduction: str, variant: str, dtype: torch.dtype
) -> None:
    x = make_inputs(rows, 16, dtype, "distinct")
    tau = torch.tensor(0.1, requires_grad=True)
    z, weight = x.z.requires_grad_(), x.grad.requires_grad_()
    loss = sslkern.supcon_loss(
        z, x.labels, tau, variant=variant, weight=weight, reduction=reduction
    )
    loss.backward()
    assert loss.item() == 0
    for leaf in (z, tau, weight):
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_asked_gradient_is_given(variant: str) -> None:
    x = make_inputs(12, 8, torch.float64, "two")
    everything = evaluate_supcon(x, variant=variant)
    tau = torch.tensor(0.1, dtype=torch.float64)
    leaves = {"z": x.z, "temperature": tau}
    for wanted in leaves:
        inputs = {n: z.clone().requires_grad_(n == wanted) for n, z in leaves.items()}
        loss = sslkern.supcon_loss(**inputs, labels=x.labels, variant=variant, reduction="none")
        loss.backward(x.grad)
        for name, leaf in inputs.items():
            if name == wanted:
                assert leaf.grad is not None
                assert torch.equal(leaf.grad, everything[f"grad_{name}"])
            else:
                assert leaf.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_result_and_gradient_dtypes(variant: str, dtype: torch.dtype) -> None:
    x = make_inputs(6, 8, dtype, "two")
    tau = torch.tensor([0.5], requires_grad=True)
    z = x.z.requires_grad_()
    loss = sslkern.supcon_loss(z, x.labels, tau, variant=variant, base_temperature=0.1)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert z.grad is not None
    assert z.grad.dtype == dtype
    assert tau.grad is not None
    assert (tau.grad.dtype, tau.grad.shape) == (torch.float32, (1,))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_scales_with_upstream(variant: str, temperature: float, scale: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x = make_inputs(40, 8, torch.float32, "single")
    expected = evaluate_supcon(x, temperature, variant=variant)
    louder = x._replace(grad=x.grad * scale)
    scaled = evaluate_supcon(louder, temperature, variant=variant)
    size = float(expected["grad_z"].abs().max())
    torch.testing.assert_close(
        scaled["grad_z"] / scale, expected["grad_z"], rtol=1e-5, atol=1e-6 * size
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_float16_trains_under_a_loss_scale(variant: str) -> None:
    """Of long rows the gradients are below the smallest float16; the scale lifts them."""
    x = make_inputs(200, 24, torch.float64, "two")
    z = (60000 * F.normalize(x.z)).half()
    scale = 2.0**16

    def gradient(function: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        leaf = z.to(dtype).requires_grad_()
        (scale * function(leaf, x.labels, 0.1, variant=variant)).backward()
        assert leaf.grad is not None
        return leaf.grad

    exact = gradient(reference.supcon_loss, torch.float64)
    assert cosine((exact / scale).half(), exact) < 0.999
    actual = gradient(sslkern.supcon_loss, torch.float16)
    eager = gradient(reference.supcon_loss, torch.float16)
    assert_accurate(actual, eager, exact, f"grad_z, {variant}")
    assert cosine(actual, exact) > 1 - 1e-5


@in_memory_layouts
@pytest.mark.parametrize("variant", VARIANTS)
def test_strided_inputs_give_the_same_numbers(
    variant: str, view: Callable[[Tensor], Tensor]
) -> None:
    x = make_inputs(37, 19, torch.float32, "single")
    z = view(x.z)
    assert torch.equal(z, x.z)
    assert z.data_ptr() != x.z.data_ptr()
    expected = evaluate_supcon(x, variant=variant)
    labels = torch.stack([x.labels, x.labels], dim=1)[:, 1]
    leaf = z.detach().requires_grad_()
    loss = sslkern.supcon_loss(leaf, labels, variant=variant, reduction="none")
    loss.backward(x.grad.float())
    assert torch.equal(loss, expected["loss"])
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected["grad_z"])


def test_expanded_rows_give_the_same_numbers() -> None:
    row, label = torch.randn(1, 9), torch.zeros(1, dtype=torch.int64)
    expanded = sslkern.supcon_loss(row.expand(5, 9), label.expand(5))
    assert torch.equal(expanded, sslkern.supcon_loss(row.repeat(5, 1), label.repeat(5)))


# ---- designed inputs


def row_counts(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives of each row."""
    positives = (labels[:, None] == labels).sum(1).double() - 1
    return positives, len(labels) - 1 - positives


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("n", [2, 7, 128, 300])
@pytest.mark.parametrize("classes", ["one", "two", "hundred", "single"])
def test_identical_embeddings_match_closed_form(
    classes: str, n: int, temperature: float, dtype: torch.dtype
) -> None:
    labels = CLASSES[classes](n)
    positives, negatives = row_counts(labels)
    everything = torch.full((n,), n - 1.0, dtype=torch.float64).log()
    expected = {
        "out": everything,
        "in": everything,
        "in_sum": everything - positives.log(),
        "pairwise": positives * negatives.log1p(),
    }
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for variant, rows in expected.items():
        z = torch.ones(n, 16, dtype=dtype)
        loss = sslkern.supcon_loss(z, labels, temperature, variant=variant, reduction="none")
        rows = torch.where(positives > 0, rows, 0)
        terms = max(1.0, float(positives.max())) if variant == "pairwise" else 1.0
        size = terms / temperature + float(rows.max())
        assert (loss.double() - rows).abs().max() < 16 * size * eps


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("classes", ["two", "hundred", "single", "any int64"])
def test_one_direction_per_class_matches_closed_form(classes: str, temperature: float) -> None:
    """Positives are alike, negatives orthogonal."""
    labels = CLASSES[classes](150)
    _, index = labels.unique(return_inverse=True)
    z = F.one_hot(index).double()
    positives, negatives = row_counts(labels)
    q = negatives * math.exp(-1 / temperature)
    expected = {
        "out": (positives + q).log(),
        "in": (positives + q).log(),
        "in_sum": (q / positives).log1p(),
        "pairwise": positives * q.log1p(),
    }
    for variant, rows in expected.items():
        loss = sslkern.supcon_loss(z, labels, temperature, variant=variant, reduction="none")
        rows = torch.where(positives > 0, rows, 0)
        torch.testing.assert_close(loss, rows, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
def test_in_sum_keeps_the_digits_of_small_losses(temperature: float) -> None:
    """Four rows: two pairs of unit vectors at right angles."""
    z, labels = torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    expected = math.log1p(2 * math.exp(-1 / temperature))
    for variant in VARIANTS[1:]:
        loss = sslkern.supcon_loss(z, labels, temperature, variant=variant)
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
def test_rows_of_one_class_have_no_pairwise_loss(temperature: float, dtype: torch.dtype) -> None:
    x = make_inputs(100, 9, dtype, "one")
    result = evaluate_supcon(x, temperature, variant="pairwise")
    assert not result["loss"].any()
    assert not result["grad_z"].any()
    assert not result["grad_temperature"].any()


@pytest.mark.not_emulated
def test_more_than_two_to_the_31_similarities() -> None:
    """Also in the gradient: of identical rows it is zero."""
    z = torch.ones(47000, 2, requires_grad=True)
    assert len(z) ** 2 > 2**31
    loss = sslkern.supcon_loss(z, torch.arange(len(z)) % 7)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(len(z) - 1), rel=1e-5)
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_rows_give_finite_loss_and_zero_gradient(
    variant: str, temperature: float, dtype: torch.dtype
) -> None:
    x = make_inputs(30, 6, dtype, "single")
    x.z[3] = 0
    actual = evaluate_supcon(x, temperature, variant=variant)
    exact = evaluate(
        reference.supcon_loss,
        {"z": x.z},
        x.grad,
        torch.float64,
        temperature,
        labels=x.labels,
        variant=variant,
    )
    assert not actual["grad_z"][3].any()
    assert not exact["grad_z"][3].any()
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(
        actual["loss"].double(), exact["loss"], rtol=64 * eps, atol=64 * eps / temperature
    )
    assert actual["grad_z"].isfinite().all()
    assert cosine(actual["grad_z"], exact["grad_z"]) > 1 - 1e-4


def test_rows_below_eps_count_as_zero() -> None:
    x = make_inputs(8, 6, torch.float64, "two")
    tiny, zero = x.z.clone(), x.z.clone()
    tiny[1] *= 1e-14
    zero[1] = 0
    loss = sslkern.supcon_loss(tiny, x.labels)
    assert torch.equal(loss, sslkern.supcon_loss(zero, x.labels))


@pytest.mark.parametrize("size", [1e30, 1e-10])
@pytest.mark.parametrize("variant", VARIANTS)
def test_extreme_row_norms_do_not_change_the_loss(variant: str, size: float) -> None:
    """Squares of 1e30 overflow float32; the norm must not."""
    x = make_inputs(30, 64, torch.float32, "two")
    loss = sslkern.supcon_loss(x.z * size, x.labels, variant=variant)
    torch.testing.assert_close(loss, sslkern.supcon_loss(x.z, x.labels, variant=variant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_dominant_row_stays_finite(variant: str, dtype: torch.dtype) -> None:
    z = torch.full((8, 4), 0.5, dtype=dtype)
    z[0] = 30.0
    x = Inputs(z, torch.arange(8) % 2, torch.ones(8, dtype=torch.float64))
    assert_supcon_like_reference(x, 0.5, variant=variant, normalize=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_beyond_the_range_of_powers_stay_finite(variant: str) -> None:
    """Rows of norm 300 give logits of 2e5, whose powers overflow float64 as well."""
    x = make_inputs(60, 8, torch.float64, "single")
    x = x._replace(z=300 * F.normalize(x.z))
    result = evaluate_supcon(x, 0.5, variant=variant, normalize=False)
    assert all(value.isfinite().all() for value in result.values())
    assert_supcon_like_reference(x, 0.5, variant=variant, normalize=False)
    single = x._replace(z=x.z.float())
    assert_supcon_like_reference(single, 0.5, variant=variant, normalize=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("classes", ["one", "pairs", "single"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_shows_wherever_the_reference_has_it(
    variant: str, classes: str, temperature: float, normalize: bool, dtype: torch.dtype
) -> None:
    x = make_inputs(120, 6, dtype, classes)
    x.z[77, 3] = math.nan
    options: Options = {"labels": x.labels, "variant": variant, "normalize": normalize}
    actual = evaluate_supcon(x, temperature, **options)
    expected = evaluate(
        reference.supcon_loss, {"z": x.z}, x.grad, torch.float64, temperature, **options
    )
    assert expected["loss"].isnan().any()
    assert torch.equal(actual["loss"].isnan(), expected["loss"].isnan())
    for name, value in expected.items():
        assert actual[name][value.isnan()].isnan().all(), name


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("variant", VARIANTS)
def test_infinite_input_gives_non_finite_loss(variant: str, value: float, normalize: bool) -> None:
    x = make_inputs(120, 6, torch.float32, "two")
    x.z[5, 0] = value
    loss = sslkern.supcon_loss(x.z, x.labels, variant=variant, normalize=normalize)
    assert not loss.isfinite()


# ---- properties


@pytest.mark.parametrize("variant", VARIANTS)
def test_permuting_the_rows_permutes_the_losses(variant: str) -> None:
    x = make_inputs(120, 12, torch.float64, "single")
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    expected = evaluate_supcon(x, variant=variant)
    permuted = evaluate_supcon(Inputs(*(t[order] for t in x)), variant=variant)
    for name in ("loss", "grad_z"):
        torch.testing.assert_close(permuted[name], expected[name][order], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_names_of_the_classes_do_not_matter(variant: str) -> None:
    x = make_inputs(120, 12, torch.float64, "hundred")
    expected = evaluate_supcon(x, variant=variant)
    in_order = evaluate_supcon(x._replace(labels=5 * x.labels - 2**40), variant=variant)
    assert all(torch.equal(in_order[name], expected[name]) for name in expected)
    names = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    renamed = evaluate_supcon(x._replace(labels=names[x.labels]), variant=variant)
    for name in expected:
        torch.testing.assert_close(renamed[name], expected[name], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_rows_per_class_are_ntxent(
    variant: str, temperature: float, dtype: torch.dtype
) -> None:
    x = make_views(60, 12, dtype)
    z = torch.cat([x.z_a, x.z_b]).requires_grad_()
    labels = torch.arange(60).repeat(2)
    loss = sslkern.supcon_loss(z, labels, temperature, variant=variant)
    expected = sslkern.ntxent_loss(z[:60], z[60:], temperature)
    tolerance = 64 * torch.finfo(dtype).eps / temperature
    torch.testing.assert_close(loss, expected, rtol=0, atol=tolerance)
    (grad,), (expected_grad,) = (torch.autograd.grad(value, z) for value in (loss, expected))
    largest = float(expected_grad.abs().max())
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=tolerance * largest)


def test_in_and_in_sum_differ_by_the_log_of_the_positives() -> None:
    x = make_inputs(90, 12, torch.float64, "two")
    options: Options = {"labels": x.labels, "reduction": "none"}
    difference = sslkern.supcon_loss(x.z, variant="in", **options)
    difference = difference - sslkern.supcon_loss(x.z, variant="in_sum", **options)
    torch.testing.assert_close(difference, row_counts(x.labels)[0].log())


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_out_is_never_below_in(temperature: float) -> None:
    """The mean of logarithms is at most the logarithm of the mean."""
    x = make_inputs(90, 12, torch.float64, "two")
    options: Options = {"labels": x.labels, "temperature": temperature, "reduction": "none"}
    out = sslkern.supcon_loss(x.z, variant="out", **options)
    inside = sslkern.supcon_loss(x.z, variant="in", **options)
    assert bool((out > inside).all())


def test_other_positives_only_add_to_the_denominator() -> None:
    """Pairwise leaves them out, so a pair of it costs less than in "out"."""
    x = make_inputs(90, 12, torch.float64, "two")
    pairwise = sslkern.supcon_loss(x.z, x.labels, variant="pairwise", reduction="none")
    out = sslkern.supcon_loss(x.z, x.labels, variant="out", reduction="none")
    assert bool((pairwise / row_counts(x.labels)[0] < out).all())


@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_in_sum_is_the_formula_of_solo_learn(temperature: float) -> None:
    """-log(sum over positives of exp / sum over all others of exp), exponentials as they are."""
    x = make_inputs(80, 12, torch.float64, "two")
    unit = F.normalize(x.z)
    exponentials = (unit @ unit.T / temperature).exp()
    exponentials = exponentials * (1 - torch.eye(80, dtype=torch.float64))
    positives = (exponentials * (x.labels[:, None] == x.labels)).sum(1)
    expected = -(positives / exponentials.sum(1)).log().mean()
    loss = sslkern.supcon_loss(x.z, x.labels, temperature, variant="in_sum")
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_equals_the_code_of_the_paper(labelled: bool) -> None:
    """Its loop over views, its mask and its two temperatures, written down again."""
    x = make_inputs(30, 12, torch.float64, "hundred")
    views = F.normalize(x.z).reshape(10, 3, 12)
    labels = torch.arange(10) % 4 if labelled else torch.arange(10)
    contrast = torch.cat(views.unbind(1))
    mask = (labels[:, None] == labels).double().repeat(3, 3)
    logits = contrast @ contrast.T / 0.1
    others = 1 - torch.eye(30, dtype=torch.float64)
    log_prob = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    mask = mask * others
    expected = -(0.1 / 0.07) * ((mask * log_prob).sum(1) / mask.sum(1)).mean()
    loss = sslkern.supcon_loss(views, labels if labelled else None, 0.1, base_temperature=0.07)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_orthogonal_to_the_row(variant: str) -> None:
    """The loss does not depend on the length of a row."""
    x = make_inputs(40, 10, torch.float64, "single")
    result = evaluate_supcon(x, variant=variant)
    size = (result["grad_z"].norm(dim=1) * x.z.norm(dim=1)).max()
    assert (result["grad_z"] * x.z).sum(1).abs().max() < 1e-13 * size


# ---- DCL


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "d"), [(2, 1), (2, 130), (3, 3), (8, 33), (47, 128), (97, 31), (193, 257), (400, 5)]
)
def test_dcl_matches_reference(batch: int, d: int, dtype: torch.dtype) -> None:
    assert_dcl_like_reference(make_views(batch, d, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.017, 0.005, 1e-3])
def test_dcl_matches_reference_at_any_temperature(temperature: float, dtype: torch.dtype) -> None:
    assert_dcl_like_reference(make_views(70, 40, dtype), temperature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0])
def test_dcl_matches_reference_without_normalization(scale: float, dtype: torch.dtype) -> None:
    x = make_views(60, 20, dtype)
    x = Views((x.z_a * scale).to(dtype), (x.z_b * scale).to(dtype), x.grad)
    assert_dcl_like_reference(x, 0.3, normalize=False)


def distance_weights(a: Tensor, b: Tensor) -> Tensor:
    """Has a gradient, and is not symmetric in the views."""
    return (a - 2 * b).square().sum(1) / 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight_fn", [distance_weights, negative_mises_fisher_weights])
def test_dcl_weights_match_reference(
    weight_fn: Callable[[Tensor, Tensor], Tensor], normalize: bool, dtype: torch.dtype
) -> None:
    x = make_views(40, 6, dtype)
    assert_dcl_like_reference(x, 0.3, weight_fn=weight_fn, normalize=normalize)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_dcl_passes_gradcheck(reduction: str) -> None:
    x = make_views(4, 5, torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return sslkern.dcl_loss(a, b, t, weight_fn=distance_weights, reduction=reduction)

    inputs = (x.z_a.requires_grad_(), x.z_b.requires_grad_(), tau)
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_dcl_reductions_match_reference(reduction: str) -> None:
    x = make_views(50, 16, torch.float64)
    actual = sslkern.dcl_loss(x.z_a, x.z_b, 0.2, reduction=reduction)
    expected = reference.dcl_loss(x.z_a, x.z_b, 0.2, reduction=reduction)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 0.005])
def test_dcl_is_ntxent_without_its_positive(temperature: float) -> None:
    """log(N + e^p) - p = log(1 + exp(log N - p))."""
    x = make_views(60, 12, torch.float64)
    decoupled = sslkern.dcl_loss(x.z_a, x.z_b, temperature, reduction="none")
    ntxent = sslkern.ntxent_loss(x.z_a, x.z_b, temperature, reduction="none")
    zero = torch.zeros_like(decoupled)
    torch.testing.assert_close(torch.logaddexp(decoupled, zero), ntxent, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
@pytest.mark.parametrize("batch", [2, 5, 100])
def test_dcl_of_orthonormal_views_matches_closed_form(batch: int, temperature: float) -> None:
    z = torch.eye(batch, dtype=torch.float64)
    expected = math.log(2 * batch - 2) - 1 / temperature
    assert sslkern.dcl_loss(z, z, temperature).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
def test_dcl_of_zero_rows_is_finite(temperature: float, dtype: torch.dtype) -> None:
    x = make_views(10, 6, dtype)
    x.z_a[3] = 0
    weight_fn = negative_mises_fisher_weights
    result = evaluate_dcl(x, temperature, weight_fn=weight_fn)
    exact = evaluate(
        reference.dcl_loss,
        {"z_a": x.z_a, "z_b": x.z_b},
        x.grad,
        torch.float64,
        temperature,
        weight_fn=weight_fn,
    )
    assert not result["grad_z_a"][3].any()
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(
        result["loss"].double(), exact["loss"], rtol=64 * eps, atol=64 * eps / temperature
    )
    assert cosine(result["grad_z_b"], exact["grad_z_b"]) > 1 - 1e-4


def test_mises_fisher_weights_match_closed_form() -> None:
    """Similarities 1 and 0 over sigma 0.5; the mean of the weights is 1."""
    a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    e = math.exp(2)
    expected = torch.tensor([2 - 2 * e / (e + 1), 2 - 2 / (e + 1)])
    weights = negative_mises_fisher_weights(a.requires_grad_(), b)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, expected)
    assert negative_mises_fisher_weights(a, b, 0.1)[0] < weights[0]


# ---- uniformity


def evaluate_uniformity(
    function: Callable[..., Tensor], x: Tensor, dtype: torch.dtype, t: float
) -> tuple[Tensor, Tensor]:
    leaf = x.to(dtype).clone().requires_grad_()
    value = function(leaf, t)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def assert_uniformity_like_reference(x: Tensor, t: float) -> None:
    """The accuracy rule, with the sizes of terms of `assert_like_reference`."""
    actual = evaluate_uniformity(sslkern.uniformity, x, x.dtype, t)
    eager = evaluate_uniformity(reference.uniformity, x, x.dtype, t)
    exact = evaluate_uniformity(reference.uniformity, x, torch.float64, t)
    beyond = max(1.0, 4 * t / 64)  # -t |x - y|^2 goes down to -4 t
    inner = 4 * t / len(x) / float(x.double().norm(dim=1).min())
    inner = max(inner, float(exact[1].abs().max()))
    terms = {"value": beyond, "grad": inner if x.dtype in HALF else beyond * inner}
    for (name, term), *values in zip(terms.items(), actual, eager, exact, strict=True):
        scale = max(term, float(values[2].abs().max()))
        assert_accurate(*values, f"{name}, {x.dtype}, {tuple(x.shape)}, {t}", scale=scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [s for s in SIZES if s[0] > 1] + [(770, 4), (1540, 3)])
def test_uniformity_matches_reference(n: int, d: int, dtype: torch.dtype) -> None:
    assert_uniformity_like_reference(make_inputs(n, d, dtype).z, 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.01, 0.5, 5.0, 27.0, 29.0, 100.0, 500.0])
def test_uniformity_matches_reference_at_any_t(t: float, dtype: torch.dtype) -> None:
    """Above 27.7 sums are shifted by their maximum."""
    assert_uniformity_like_reference(make_inputs(130, 8, dtype).z, t)


@pytest.mark.parametrize("t", [0.5, 2.0, 30.0])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (40, 8), (300, 2)])
def test_uniformity_equals_the_code_of_the_paper(n: int, d: int, t: float) -> None:
    x = make_inputs(n, d, torch.float64).z.requires_grad_()
    expected = torch.pdist(F.normalize(x)).pow(2).mul(-t).exp().mean().log()
    value = sslkern.uniformity(x, t)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (grad,), (expected_grad,) = (torch.autograd.grad(v, x) for v in (value, expected))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("t", [2.0, 40.0])
def test_uniformity_passes_gradcheck(t: float) -> None:
    x = make_inputs(5, 4, torch.float64).z.requires_grad_()
    scale = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    assert passes_gradcheck(sslkern.uniformity, (x, scale), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [2.0, 40.0, 2000.0])
def test_uniformity_of_designed_rows(t: float, dtype: torch.dtype) -> None:
    """All alike, opposite, and orthogonal to each other."""
    tolerance = 16 * t * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    alike = torch.full((300, 7), 3.0, dtype=dtype)
    opposite = torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=dtype)
    for rows, expected in ((alike, 0.0), (opposite, -4 * t), (torch.eye(200), -2 * t)):
        assert abs(sslkern.uniformity(rows.to(dtype), t).item() - expected) < tolerance


def test_uniformity_takes_zero_rows_as_orthogonal() -> None:
    x = make_inputs(20, 6, torch.float64).z
    zero, turned = F.pad(x, (0, 1)), F.pad(x, (0, 1))
    zero[4] = 0
    turned[4] = torch.tensor([0.0] * 6 + [1.0])
    value, grad = evaluate_uniformity(sslkern.uniformity, zero, torch.float64, 2.0)
    torch.testing.assert_close(value, sslkern.uniformity(turned), rtol=1e-13, atol=0)
    torch.testing.assert_close(value, reference.uniformity(zero), rtol=1e-13, atol=0)
    assert not grad[4].any()
    assert grad.isfinite().all()


def test_uniformity_is_lower_for_rows_that_spread() -> None:
    """A regular polygon is the lowest there is for its number of rows in the plane."""
    angle = torch.arange(7) * (2 * math.pi / 7)
    polygon = torch.stack([angle.cos(), angle.sin()], dim=1).double()
    lowest, grad = evaluate_uniformity(sslkern.uniformity, polygon, torch.float64, 2.0)
    assert grad.abs().max() < 1e-6
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        other = torch.randn(7, 2, generator=g, dtype=torch.float64)
        assert sslkern.uniformity(other) > lowest


def test_uniformity_of_rows_with_nan_is_nan() -> None:
    x = make_inputs(120, 6, torch.float32).z
    x[77, 3] = math.nan
    value, grad = evaluate_uniformity(sslkern.uniformity, x, torch.float32, 2.0)
    assert value.isnan()
    assert grad.isnan().all()


def test_uniformity_of_half_rows_is_float32() -> None:
    for dtype in HALF:
        value, grad = evaluate_uniformity(sslkern.uniformity, torch.eye(4), dtype, 2.0)
        assert (value.dtype, grad.dtype) == (torch.float32, dtype)


# ---- peers


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def assert_like_peer(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """The same loss and gradients, to 1e-6 in float64."""
    results = []
    for function in (ours, theirs):
        leaves = [z.clone().requires_grad_() for z in inputs]
        loss = function(*leaves)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*results, strict=True):
        assert relative_difference(got, expected) < 1e-6


def load_peer(name: str, module: str) -> Any:
    try:
        return peers.import_peer(name, module)
    except UnavailableError as reason:
        return pytest.skip(str(reason))


@pytest.mark.parametrize("temperature", [0.5, 0.07])
@pytest.mark.parametrize("classes", ["two", "hundred", "single", "pairs"])
def test_equals_pytorch_metric_learning(classes: str, temperature: float) -> None:
    peer = load_peer("pytorch-metric-learning", "pytorch_metric_learning.losses")
    x = make_inputs(60, 12, torch.float64, classes)
    if classes == "hundred":  # 60 rows of 100 classes would all be alone
        x = x._replace(labels=x.labels % 25)
    for theirs, variant in ((peer.SupConLoss, "out"), (peer.NTXentLoss, "pairwise")):
        ours = SupConLoss(temperature, variant)
        peer_loss = theirs(temperature=temperature)
        assert_like_peer(
            lambda z, loss=ours: loss(z, x.labels),
            lambda z, loss=peer_loss: loss(z, x.labels),
            x.z,
        )


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_lightly_dcl(weighted: bool, temperature: float) -> None:
    peer = load_peer("lightly", "lightly.loss.dcl_loss")
    x = make_views(40, 12, torch.float64)
    weight_fn = distance_weights if weighted else None
    arguments: Options = {"temperature": temperature, "weight_fn": weight_fn}
    assert_like_peer(DCLLoss(**arguments), peer.DCLLoss(**arguments), x.z_a, x.z_b)


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize(("temperature", "sigma"), [(0.1, 0.5), (0.5, 0.2), (0.01, 1.0)])
def test_equals_lightly_weighted_dcl(temperature: float, sigma: float) -> None:
    peer = load_peer("lightly", "lightly.loss.dcl_loss")
    x = make_views(40, 12, torch.float64)
    ours, theirs = DCLWLoss(temperature, sigma), peer.DCLWLoss(temperature, sigma)
    assert_like_peer(ours, theirs, x.z_a, x.z_b)
    a, b = F.normalize(x.z_a), F.normalize(x.z_b)
    weights = peer.negative_mises_fisher_weights(a, b, sigma)
    torch.testing.assert_close(negative_mises_fisher_weights(a, b, sigma), weights)


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("classes", ["hundred", "two"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bitwise_the_same_for_any_thread_count(
    variant: str, classes: str, temperature: float
) -> None:
    x = make_inputs(500, 40, torch.float32, classes)
    torch.set_num_threads(1)
    expected = evaluate_supcon(x, temperature, variant=variant)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate_supcon(x, temperature, variant=variant)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.cpu_only
def test_uniformity_and_dcl_are_bitwise_the_same_for_any_thread_count() -> None:
    x = make_views(250, 40, torch.float32)
    torch.set_num_threads(1)
    expected = evaluate_dcl(x)
    value = evaluate_uniformity(sslkern.uniformity, x.z_a, torch.float32, 2.0)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        again = evaluate_dcl(x)
        assert all(torch.equal(again[name], expected[name]) for name in expected)
        same = evaluate_uniformity(sslkern.uniformity, x.z_a, torch.float32, 2.0)
        assert all(torch.equal(a, b) for a, b in zip(same, value, strict=True))


def test_inputs_are_left_alone() -> None:
    x = make_inputs(20, 7, torch.float32, "two")
    before = x.z.clone(), x.labels.clone()
    for variant in VARIANTS:
        evaluate_supcon(x, variant=variant)
    assert torch.equal(x.z, before[0])
    assert torch.equal(x.labels, before[1])


def test_changing_an_input_before_backward_is_an_error() -> None:
    x = make_inputs(8, 5, torch.float32, "two")
    z = (x.z.requires_grad_() * 1).requires_grad_()
    loss = sslkern.supcon_loss(z, x.labels)
    with torch.no_grad():
        z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_labels_may_change_before_backward() -> None:
    x = make_inputs(8, 5, torch.float32, "two")
    expected = evaluate_supcon(x)["grad_z"]
    z, labels = x.z.requires_grad_(), x.labels.clone()
    loss = sslkern.supcon_loss(z, labels, reduction="none")
    labels.zero_()
    loss.backward(x.grad.float())
    assert z.grad is not None
    assert torch.equal(z.grad, expected)


# ---- errors

Z = torch.randn(4, 5)
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z": Z[0]}, ValueError, r"z to be of shape \(N, D\), got shape \(5,\)"),
        ({"z": Z[None, None]}, ValueError, r"z to be of shape \(N, D\), got shape \(1, 1, 4, 5"),
        ({"z": Z[:0], "labels": LABELS[:0]}, ValueError, r"no empty dimension, got shape \(0, 5"),
        ({"z": Z[:, :0]}, ValueError, r"no empty dimension, got shape \(4, 0\)"),
        ({"z": Z[None, :0], "labels": None}, ValueError, r"no empty dimension, got shape \(0, 5"),
        ({"z": Z.long()}, TypeError, r"z to be of dtype .* got torch.int64"),
        ({"z": Z + 0j}, TypeError, r"z to be of dtype .* got torch.complex64"),
        ({"z": Z.to_sparse()}, TypeError, r"z to be a dense tensor, got layout Sparse"),
        ({"z": [1.0]}, TypeError, r"z to be a tensor, got list"),
        ({"labels": None}, ValueError, r"labels to be given where .* got None"),
        ({"labels": [0, 1, 0, 1]}, TypeError, r"labels to be a tensor, got list"),
        ({"labels": LABELS.int()}, TypeError, r"labels to be of dtype torch.int64, got .*int32"),
        ({"labels": LABELS.float()}, TypeError, r"labels to be of dtype torch.int64, got .*float"),
        ({"labels": LABELS[:3]}, ValueError, r"labels to be of shape \(N,\) = .* got shape \(3,\)"),
        ({"labels": LABELS[:, None]}, ValueError, r"labels to be of shape .* got shape \(4, 1\)"),
        ({"labels": LABELS.to("meta")}, ValueError, r"labels to be on .* of z, .* got meta"),
        ({"z": Z[None]}, ValueError, r"labels to be of shape \(B,\) = \(1,\), got shape \(4,\)"),
        ({"z": Z[:, None], "labels": LABELS.int()}, TypeError, r"labels to be of dtype torch.int"),
        ({"temperature": 0.0}, ValueError, r"temperature to be positive and finite, got 0"),
        ({"temperature": -1}, ValueError, r"temperature to be positive and finite, got -1"),
        ({"temperature": math.nan}, ValueError, r"temperature to be positive and finite, got nan"),
        ({"temperature": math.inf}, ValueError, r"temperature to be positive and finite, got inf"),
        ({"temperature": torch.ones(2)}, ValueError, r"temperature to be a number .* \(2,\)"),
        ({"temperature": torch.tensor(1)}, TypeError, r"temperature to be of dtype .* torch.int64"),
        ({"temperature": "0.5"}, TypeError, r"temperature to be a number .* got str"),
        ({"base_temperature": 0.0}, ValueError, r"base_temperature to be positive .* got 0"),
        ({"base_temperature": math.nan}, ValueError, r"base_temperature to be positive .* got nan"),
        ({"variant": "sum"}, ValueError, r"variant to be one of 'out', 'in', .* got 'sum'"),
        ({"reduction": "avg"}, ValueError, "reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.ones(4, 1)}, ValueError, r"weight to be of shape .* got shape \(4, 1\)"),
        ({"weight": LABELS}, TypeError, "weight to be a floating-point tensor, got torch.int64"),
        ({"weight": [1.0] * 4}, TypeError, "weight to be a tensor, got list"),
        ({"z": Z[:, None], "weight": torch.ones(3)}, ValueError, r"weight to be of shape \(N,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    call: Options = {"z": Z, "labels": LABELS, **options}
    with pytest.raises(error, match=r"^sslkern::supcon: expected (.* )?" + message):
        sslkern.supcon_loss(**call)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: (Z[0], Z), ValueError, r"z_a to be of shape \(B, D\) with B > 1, got shape \(5,"),
        (lambda: (Z[:1], Z[:1]), ValueError, r"z_a to be of .* B > 1, got shape \(1, 5\)"),
        (lambda: (Z[:0], Z[:0]), ValueError, r"z_a to be of .* B > 1, got shape \(0, 5\)"),
        (lambda: (Z[:, :0], Z[:, :0]), ValueError, r"no empty dimension, got shape \(8, 0\)"),
        (lambda: (Z, Z[:3]), ValueError, r"z_b to be of the shape of z_a, \(4, 5\), got shape \(3"),
        (lambda: (Z, Z[:, :3]), ValueError, r"z_b to be of the shape of z_a, .* got shape \(4, 3"),
        (lambda: (Z, Z.double()), TypeError, r"z_b to be of the dtype of z_a, .* torch.float64"),
        (lambda: (Z.long(), Z), TypeError, r"z_a to be of dtype .* got torch.int64"),
        (lambda: (Z, Z.long()), TypeError, r"z_b to be of dtype .* got torch.int64"),
        (lambda: (Z.to_sparse(), Z), TypeError, r"z_a to be a dense tensor, got layout torch.spar"),
        (lambda: (Z, Z.to("meta")), ValueError, r"z_b to be on the device of z_a, cpu, got meta"),
        (lambda: ([1.0], Z), TypeError, r"z_a to be a tensor, got list"),
        (lambda: (Z, None), TypeError, r"z_b to be a tensor, got NoneType"),
        (lambda: (Z, Z, 0.0), ValueError, r"temperature to be positive and finite, got 0"),
        (lambda: (Z, Z, "1"), TypeError, r"temperature to be a number .* got str"),
        (lambda: (Z, Z, torch.ones(2)), ValueError, r"temperature to be a number .* \(2,\)"),
    ],
)  # fmt: skip
def test_bad_dcl_input_is_refused(
    call: Callable[[], tuple[Any, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::supcon: expected (.* )?" + message):
        sslkern.dcl_loss(*call())


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        (lambda a, b: torch.ones(3), r"\(3,\)"),
        (lambda a, b: torch.ones(4, 1), r"\(4, 1\)"),
        (lambda a, b: 1.0, "float"),
    ],
)
def test_bad_dcl_option_is_refused(weights: Callable[..., object], got: str) -> None:
    with pytest.raises(ValueError, match="weight_fn to be a function to .* got " + got):
        sslkern.dcl_loss(Z, Z, weight_fn=weights)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction to be 'none', 'mean' or 'sum', got 'avg'"):
        sslkern.dcl_loss(Z, Z, reduction="avg")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: (Z[:1],), ValueError, r"x to be of shape \(N, D\) with N > 1, got shape \(1, 5\)"),
        (lambda: (Z[0],), ValueError, r"x to be of shape \(N, D\) with N > 1, got shape \(5,\)"),
        (lambda: (Z[None],), ValueError, r"x to be of shape .* got shape \(1, 4, 5\)"),
        (lambda: (Z[:, :0],), ValueError, r"no empty dimension, got shape \(4, 0\)"),
        (lambda: (Z.long(),), TypeError, r"x to be of dtype .* got torch.int64"),
        (lambda: (Z.to_sparse(),), TypeError, r"x to be a dense tensor, got layout torch.sparse"),
        (lambda: (None,), TypeError, r"x to be a tensor, got NoneType"),
        (lambda: (Z, 0.0), ValueError, r"t to be positive and finite, got 0"),
        (lambda: (Z, -2.0), ValueError, r"t to be positive and finite, got -2"),
        (lambda: (Z, math.nan), ValueError, r"t to be positive and finite, got nan"),
        (lambda: (Z, torch.ones(2)), ValueError, r"t to be a number .* got shape \(2,\)"),
        (lambda: (Z, torch.tensor(2)), TypeError, r"t to be of dtype .* got torch.int64"),
        (lambda: (Z, "2"), TypeError, r"t to be a number .* got str"),
    ],
)
def test_bad_uniformity_input_is_refused(
    call: Callable[[], tuple[Any, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"^sslkern::supcon: expected (.* )?" + message):
        sslkern.uniformity(*call())


@pytest.mark.parametrize("variant", VARIANTS)
def test_second_derivative_is_refused(variant: str) -> None:
    z = torch.randn(4, 5, requires_grad=True)
    losses = {
        "supcon": sslkern.supcon_loss(z, LABELS, variant=variant),
        "dcl": sslkern.dcl_loss(z, Z),
        "uniformity": sslkern.uniformity(z),
    }
    for loss in losses.values():
        (grad,) = torch.autograd.grad(loss, z, create_graph=True)
        with pytest.raises(NotImplementedError, match="sslkern::supcon: expected the gradient not"):
            grad.square().sum().backward()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_modules_refuse_numbers(value: float) -> None:
    for make in (SupConLoss, DCLLoss, DCLWLoss):
        with pytest.raises(ValueError, match="expected temperature to be positive and finite"):
            make(value)
    with pytest.raises(ValueError, match="expected base_temperature to be positive and finite"):
        SupConLoss(base_temperature=value)
    with pytest.raises(ValueError, match="expected sigma to be positive and finite"):
        DCLWLoss(sigma=value)
    with pytest.raises(ValueError, match="expected sigma to be positive and finite"):
        negative_mises_fisher_weights(Z, Z, value)


def test_modules_refuse_other_arguments() -> None:
    with pytest.raises(ValueError, match=r"variant to be one of 'out', .* got 'sum'"):
        SupConLoss(variant="sum")
    with pytest.raises(ValueError, match=r"a to be of shape \(B, D\), got shape \(5,\)"):
        negative_mises_fisher_weights(Z[0], Z)
    with pytest.raises(ValueError, match=r"b to be of the shape of a, \(4, 5\), got shape \(1, 5"):
        negative_mises_fisher_weights(Z, Z[:1])
    with pytest.raises(TypeError, match="b to be a tensor, got NoneType"):
        negative_mises_fisher_weights(Z, None)  # type: ignore[arg-type]


# ---- torch integration


def test_modules_equal_functions() -> None:
    x = make_inputs(12, 8, torch.float32, "two")
    for variant in VARIANTS:
        options: Options = {"temperature": 0.2, "variant": variant, "base_temperature": 0.07}
        expected = sslkern.supcon_loss(x.z, x.labels, **options)
        assert torch.equal(SupConLoss(**options)(x.z, x.labels), expected)
    views = x.z.reshape(6, 2, 8)
    assert torch.equal(SupConLoss()(views), sslkern.supcon_loss(views))
    assert SupConLoss().temperature == 0.1
    assert repr(SupConLoss(0.2, "in")) == (
        "SupConLoss(temperature=0.2, variant='in', base_temperature=None)"
    )
    y = make_views(7, 8, torch.float32)
    expected = sslkern.dcl_loss(y.z_a, y.z_b, 0.2, weight_fn=distance_weights)
    assert torch.equal(DCLLoss(0.2, distance_weights)(out0=y.z_a, out1=y.z_b), expected)
    expected = sslkern.dcl_loss(
        y.z_a, y.z_b, 0.2, weight_fn=lambda a, b: negative_mises_fisher_weights(a, b, 0.3)
    )
    assert torch.equal(DCLWLoss(0.2, 0.3)(y.z_a, y.z_b), expected)
    assert repr(DCLLoss()) == "DCLLoss(temperature=0.1)"
    assert repr(DCLWLoss()) == "DCLWLoss(temperature=0.1, sigma=0.5)"


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pairs", [True, False])
def test_opcheck(pairs: bool, normalize: bool, dtype: torch.dtype) -> None:
    x = make_inputs(12, 5, dtype, "two")
    tau = torch.tensor(0.5, requires_grad=True)
    inputs = (x.z.requires_grad_(), x.labels, tau, normalize, pairs)
    torch.library.opcheck(torch.ops.sslkern.supcon_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize(
    ("variant", "dynamic"), [("out", False), *((variant, True) for variant in VARIANTS)]
)
def test_compiles_without_graph_break(variant: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.supcon_loss, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (12, 18):
        x = make_inputs(n, 5, torch.float32, "single")
        options: Options = {"labels": x.labels, "variant": variant, "base_temperature": 0.07}
        expected = evaluate_supcon(x, **options)
        actual = evaluate(compiled, {"z": x.z}, x.grad, torch.float32, **options)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_views_compile_without_graph_break() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sslkern.supcon_loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (12, 18):
        x = make_inputs(n, 5, torch.float32)
        z = x.z.reshape(n // 3, 3, 5)
        loss = sslkern.supcon_loss(z, weight=x.grad)
        assert torch.equal(compiled(z, weight=x.grad), loss)


@pytest.mark.not_emulated
def test_dcl_and_uniformity_compile_without_graph_break() -> None:
    torch._dynamo.reset()
    options: Options = {"backend": "aot_eager", "fullgraph": True, "dynamic": True}
    dcl = torch.compile(sslkern.dcl_loss, **options)
    module = torch.compile(DCLWLoss(0.2, gather_distributed=True), **options)
    uniformity = torch.compile(sslkern.uniformity, **options)
    for batch in (6, 9):
        x = make_views(batch, 5, torch.float32)
        weights: Options = {"weight_fn": negative_mises_fisher_weights}
        expected = evaluate_dcl(x, **weights)
        matrices = {"z_a": x.z_a, "z_b": x.z_b}
        actual = evaluate(dcl, matrices, x.grad, torch.float32, **weights)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)
        assert torch.equal(module(x.z_a, x.z_b), DCLWLoss(0.2)(x.z_a, x.z_b))
        got = evaluate_uniformity(uniformity, x.z_a, torch.float32, 2.0)
        values = evaluate_uniformity(sslkern.uniformity, x.z_a, torch.float32, 2.0)
        assert all(torch.equal(a, b) for a, b in zip(got, values, strict=True))


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x = make_inputs(12, 5, torch.float32, "two")

    def training_loss(z: Tensor) -> Tensor:
        loss = sslkern.supcon_loss(z.relu() + 1, x.labels, 0.2, variant="pairwise")
        return loss + sslkern.dcl_loss(z[:6] * 2, z[6:]) + sslkern.uniformity(z)

    z = x.z.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(z).backward()
    expected = x.z.clone().requires_grad_()
    training_loss(expected).backward()
    torch.testing.assert_close(z.grad, expected.grad)


def test_autocast_promotes_mixed_dtypes() -> None:
    x = make_views(6, 5, torch.float32)
    half = x.z_b.bfloat16()
    with autocast():
        mixed = sslkern.dcl_loss(x.z_a, half, weight_fn=negative_mises_fisher_weights)
        wide = sslkern.dcl_loss(half.float(), half.double())
    expected = sslkern.dcl_loss(x.z_a, half.float(), weight_fn=negative_mises_fisher_weights)
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-6)
    assert wide.dtype == torch.float64


def test_autocast_changes_nothing_for_one_dtype() -> None:
    x = make_inputs(30, 5, torch.bfloat16, "two")
    expected = evaluate_supcon(x, variant="pairwise")
    with autocast():
        inside = evaluate_supcon(x, variant="pairwise")
    assert all(torch.equal(inside[name], expected[name]) for name in expected)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 4)
    with autocast():
        z = layer(torch.randn(6, 5))
        loss = sslkern.supcon_loss(z, torch.arange(6) % 2)
        loss = loss + sslkern.dcl_loss(z[:3], z[3:]) + sslkern.uniformity(z)
    loss.backward()
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_no_grad_gives_the_same_loss() -> None:
    x = make_inputs(60, 9, torch.float32, "two")
    for variant in VARIANTS:
        with_grad = sslkern.supcon_loss(x.z.clone().requires_grad_(), x.labels, variant=variant)
        with torch.no_grad():
            loss = sslkern.supcon_loss(x.z.clone().requires_grad_(), x.labels, variant=variant)
        assert not loss.requires_grad
        assert torch.equal(loss, with_grad.detach())


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.supcon_loss(Z, LABELS).isfinite()
        assert sslkern.dcl_loss(Z, Z).isfinite()
        assert sslkern.uniformity(Z).isfinite()
