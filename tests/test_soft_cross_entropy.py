"""Soft cross entropy against its definition, `sslkern.reference`, in float64."""

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
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import SoftCrossEntropyLoss

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# N rows of K classes: K around vectors of 2 to 16 elements and the block of 1024.
SIZES = [
    (1, 1), (2, 3), (3, 4), (3, 15), (2, 16), (5, 17), (4, 64), (3, 1023), (3, 1024), (3, 1025),
    (2, 2048), (2, 3001), (33, 130), (200, 40),
]  # fmt: skip

# What the teacher gives: scores, scores relative to a center, or rows of probabilities.
FORMS = ["scores", "center", "probabilities"]

Options = dict[str, Any]
INF = math.inf


class Inputs(NamedTuple):
    """Both matrices, and one upstream gradient per row."""

    student: Tensor
    teacher: Tensor
    grad: Tensor


class Problem(NamedTuple):
    x: Inputs
    options: Options


def make_problem(form: str, n: int, k: int, dtype: torch.dtype, seed: int = 0) -> Problem:
    """A student that resembles its teacher; probabilities have any mass, also none."""
    g = torch.Generator().manual_seed(seed)
    teacher, noise = (torch.randn(n, k, generator=g, dtype=torch.float64) for _ in range(2))
    student = (teacher + noise) / 4
    grad = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    options: Options = {}
    if form == "center":
        options["center"] = torch.randn(k, generator=g, dtype=torch.float64)
    if form == "probabilities":
        mass = torch.tensor([1.0, 0.3, 0.0, 5.0], dtype=torch.float64).repeat(n)[:n, None]
        teacher = mass * teacher.softmax(1)
        options["from_probabilities"] = True
    return Problem(Inputs(student.to(dtype), teacher.to(dtype), grad), options)


def evaluate(
    function: Callable[..., Tensor],
    x: Inputs,
    dtype: torch.dtype,
    temperature: float = 0.1,
    **options: object,
) -> dict[str, Tensor]:
    """The loss of every row and the gradients of the student and its temperature."""
    student = x.student.to(dtype).clone().requires_grad_()
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    loss = function(
        student, x.teacher.to(dtype), student_temperature=tau, reduction="none", **options
    )
    loss.backward(x.grad.to(loss.dtype))
    assert student.grad is not None
    assert tau.grad is not None
    return {"loss": loss.detach(), "grad_student": student.grad, "grad_temperature": tau.grad}


def assert_like_reference(x: Inputs, temperature: float = 0.1, **options: object) -> None:
    """The accuracy rule for the loss and both gradients.

    Errors are relative to the terms and not to what is left where p and q cancel: the mass of a
    row for the loss, mass / tau per unit of upstream gradient for the gradient.
    """
    dtype = x.student.dtype
    actual = evaluate(sslkern.soft_cross_entropy, x, dtype, temperature, **options)
    eager = evaluate(reference.soft_cross_entropy, x, dtype, temperature, **options)
    exact = evaluate(reference.soft_cross_entropy, x, torch.float64, temperature, **options)
    mass = max(
        1.0, float(x.teacher.double().sum(1).max()) if "from_probabilities" in options else 1
    )
    upstream = mass * float(x.grad.max()) / temperature
    terms = {
        "loss": mass,
        "grad_student": upstream,
        "grad_temperature": upstream * len(x.grad) / temperature,
    }
    for name, expected in exact.items():
        scale = max(terms[name], float(expected[expected.isfinite()].abs().max()))
        got, plain = actual[name], eager[name]
        if name == "grad_temperature":  # float64; the work behind it is not
            working = torch.promote_types(dtype, torch.float32)
            got, plain = got.to(working), plain.to(working)
        what = f"{name}, {dtype}, {tuple(x.student.shape)}, temperature {temperature}"
        assert_accurate(got, plain, expected, what, scale=scale)


# ---- the reference itself


@pytest.mark.parametrize("form", FORMS)
def test_reference_passes_gradcheck(form: str) -> None:
    x, options = make_problem(form, 3, 4, torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return reference.soft_cross_entropy(s, x.teacher, student_temperature=t, **options)

    assert torch.autograd.gradcheck(loss, (x.student.requires_grad_(), tau))


def test_reference_equals_cross_entropy() -> None:
    """PyTorch takes probabilities of any mass, too."""
    x, options = make_problem("probabilities", 7, 9, torch.float64)
    expected = F.cross_entropy(x.student / 0.2, x.teacher, reduction="none")
    actual = reference.soft_cross_entropy(
        x.student, x.teacher, student_temperature=0.2, reduction="none", **options
    )
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


# ---- forward, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference(form: str, n: int, k: int, dtype: torch.dtype) -> None:
    x, options = make_problem(form, n, k, dtype)
    assert_like_reference(x, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [20011, 16400, 8193])
@pytest.mark.parametrize("form", FORMS)
def test_long_rows_match_reference(form: str, k: int, dtype: torch.dtype) -> None:
    """Rows of several pieces, one of which has no class with any weight."""
    x, options = make_problem(form, 2, k, dtype)
    x.student[:, : 2 * k // 3] = -INF
    x.teacher[:, : 2 * k // 3] = 0 if form == "probabilities" else -INF
    assert_like_reference(x, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.005])
@pytest.mark.parametrize("teacher_temperature", [1.0, 0.04, 0.005])
@pytest.mark.parametrize("form", ["scores", "center"])
def test_matches_reference_at_any_temperature(
    form: str, teacher_temperature: float, temperature: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 40, 300, dtype)
    assert_like_reference(x, temperature, teacher_temperature=teacher_temperature, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.005])
def test_matches_reference_of_probabilities_at_any_temperature(
    temperature: float, dtype: torch.dtype
) -> None:
    x, options = make_problem("probabilities", 40, 300, dtype)
    assert_like_reference(x, temperature, **options)


@pytest.mark.parametrize("temperature", [0.3, 0.05])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("form", FORMS)
def test_passes_gradcheck(form: str, reduction: str, temperature: float) -> None:
    x, options = make_problem(form, 4, 6, torch.float64)
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)

    def loss(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return sslkern.soft_cross_entropy(
            s, x.teacher, student_temperature=t, weight=w, reduction=reduction, **options
        )

    inputs = (x.student.requires_grad_(), tau, x.grad.requires_grad_())
    assert passes_gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_reductions_and_weights_match_reference(form: str, weighted: bool, reduction: str) -> None:
    x, options = make_problem(form, 50, 60, torch.float64)
    options |= {"reduction": reduction, "weight": x.grad if weighted else None}
    actual = sslkern.soft_cross_entropy(x.student, x.teacher, **options)
    expected = reference.soft_cross_entropy(x.student, x.teacher, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("wanted", ["student", "student_temperature"])
@pytest.mark.parametrize("form", FORMS)
def test_only_the_asked_gradient_is_given(form: str, wanted: str) -> None:
    x, options = make_problem(form, 6, 9, torch.float64)
    everything = evaluate(sslkern.soft_cross_entropy, x, torch.float64, **options)
    tau = torch.tensor(0.1, dtype=torch.float64)
    leaves = {"student": x.student, "student_temperature": tau}
    leaves[wanted].requires_grad_()
    loss = sslkern.soft_cross_entropy(**leaves, teacher=x.teacher, reduction="none", **options)
    loss.backward(x.grad)
    expected = everything["grad_student" if wanted == "student" else "grad_temperature"]
    for name, leaf in leaves.items():
        if name == wanted:
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, expected)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_result_and_gradient_dtypes(form: str, dtype: torch.dtype) -> None:
    x, options = make_problem(form, 6, 9, dtype)
    tau = torch.tensor([0.5], requires_grad=True)
    student = x.student.requires_grad_()
    loss = sslkern.soft_cross_entropy(student, x.teacher, student_temperature=tau, **options)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert student.grad is not None
    assert student.grad.dtype == dtype
    assert tau.grad is not None
    assert (tau.grad.dtype, tau.grad.shape) == (torch.float32, (1,))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_scales_with_upstream(form: str, scale: float) -> None:
    """Loss scaling must neither underflow nor overflow inside the kernel."""
    x, options = make_problem(form, 20, 30, torch.float32)
    expected = evaluate(sslkern.soft_cross_entropy, x, torch.float32, **options)
    louder = x._replace(grad=x.grad * scale)
    scaled = evaluate(sslkern.soft_cross_entropy, louder, torch.float32, **options)
    for name in ("grad_student", "grad_temperature"):
        torch.testing.assert_close(scaled[name] / scale, expected[name], rtol=1e-5, atol=1e-6)


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_views_give_the_same_numbers(
    form: str, dtype: torch.dtype, view: Callable[[Tensor], Tensor]
) -> None:
    x, options = make_problem(form, 7, 1024 + 48, dtype)
    expected = evaluate(sslkern.soft_cross_entropy, x, dtype, **options)
    student = view(x.student).detach().requires_grad_()
    loss = sslkern.soft_cross_entropy(student, view(x.teacher), reduction="none", **options)
    loss.backward(x.grad.to(loss.dtype))
    assert student.grad is not None
    assert torch.equal(loss, expected["loss"])
    assert torch.equal(student.grad, expected["grad_student"])


def test_one_row_may_serve_as_all() -> None:
    """Rows at a distance of 0."""
    x, _ = make_problem("scores", 5, 40, torch.float32)
    shared = x.teacher[:1].expand(5, 40)
    expected = sslkern.soft_cross_entropy(x.student, shared.contiguous())
    assert torch.equal(sslkern.soft_cross_entropy(x.student, shared), expected)


@pytest.mark.not_emulated
def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    distance, k = 2**31 + 64, 40
    x, _ = make_problem("scores", 2, k, torch.bfloat16)
    try:  # of which two pages are ever touched
        storage = torch.empty(distance + k, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this system does not lend 4 GiB of addresses")
    student = storage.as_strided((2, k), (distance, 1)).copy_(x.student)
    assert torch.equal(
        sslkern.soft_cross_entropy(student, x.teacher),
        sslkern.soft_cross_entropy(x.student, x.teacher),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_center_of_any_shape_and_dtype(dtype: torch.dtype) -> None:
    x, _ = make_problem("scores", 6, 33, dtype)
    center = torch.randn(33, generator=torch.Generator().manual_seed(3)).bfloat16()
    expected = sslkern.soft_cross_entropy(x.student, x.teacher, center=center.float())
    strided = torch.stack([center, center], dim=1)[:, 1]
    for same in (center, center[None], center.double(), center.half(), strided):
        assert torch.equal(sslkern.soft_cross_entropy(x.student, x.teacher, center=same), expected)


@pytest.mark.parametrize("form", ["scores", "center"])
def test_temperatures_as_numbers_and_tensors(form: str) -> None:
    x, options = make_problem(form, 6, 33, torch.float32)
    results = [
        sslkern.soft_cross_entropy(
            x.student,
            x.teacher,
            student_temperature=wrap(0.25),
            teacher_temperature=wrap(0.125),
            **options,
        )
        for wrap in (float, torch.tensor, lambda v: torch.tensor([v]).bfloat16())
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_teacher_temperature_is_that_of_dino_by_default() -> None:
    x, _ = make_problem("scores", 6, 33, torch.float32)
    given = sslkern.soft_cross_entropy(x.student, x.teacher, teacher_temperature=0.04)
    assert torch.equal(sslkern.soft_cross_entropy(x.student, x.teacher), given)
    exact = reference.soft_cross_entropy(x.student, x.teacher, teacher_temperature=0.04)
    assert torch.equal(reference.soft_cross_entropy(x.student, x.teacher), exact)


# ---- memory and order of work


def test_nothing_of_the_size_of_the_scores_is_kept_but_themselves() -> None:
    x, options = make_problem("center", 20, 500, torch.float32)
    kept: list[Tensor] = []

    def pack(z: Tensor) -> Tensor:
        kept.append(z)
        return z

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda z: z):
        sslkern.soft_cross_entropy(x.student.requires_grad_(), x.teacher, **options)
    own = {x.student.data_ptr(), x.teacher.data_ptr()}
    assert own <= {z.data_ptr() for z in kept}
    assert all(z.numel() <= 500 for z in kept if z.data_ptr() not in own)


def test_center_may_change_between_forward_and_backward() -> None:
    """DINO updates it there."""
    x, options = make_problem("center", 6, 33, torch.float32)
    center = options["center"].float()
    expected = evaluate(sslkern.soft_cross_entropy, x, torch.float32, center=center)
    student = x.student.clone().requires_grad_()
    loss = sslkern.soft_cross_entropy(student, x.teacher, center=center, reduction="none")
    center.mul_(0.9).add_(1.0)
    loss.backward(x.grad.float())
    assert student.grad is not None
    assert torch.equal(student.grad, expected["grad_student"])


def test_changing_the_teacher_before_backward_is_an_error() -> None:
    x, _ = make_problem("scores", 6, 33, torch.float32)
    loss = sslkern.soft_cross_entropy(x.student.requires_grad_(), x.teacher)
    x.teacher.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_grad_gives_the_same_loss() -> None:
    x, _ = make_problem("scores", 6, 33, torch.float32)
    expected = sslkern.soft_cross_entropy(x.student.requires_grad_(), x.teacher)
    with torch.no_grad():  # where it does not matter who requires grad
        loss = sslkern.soft_cross_entropy(x.student, x.teacher.requires_grad_())
    assert not loss.requires_grad
    assert torch.equal(loss, expected.detach())


# ---- designed inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 128, 3000])
def test_equal_scores_give_log_of_the_number_of_classes(k: int, dtype: torch.dtype) -> None:
    s = torch.full((3, k), 7.0, dtype=dtype)
    tolerance = 16 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for temperature in (1.0, 0.005):
        loss = sslkern.soft_cross_entropy(
            s, s, student_temperature=temperature, teacher_temperature=temperature
        )
        assert abs(loss.item() - math.log(k)) < tolerance


@pytest.mark.parametrize("as_probabilities", [False, True])
def test_one_hot_targets_give_cross_entropy(as_probabilities: bool) -> None:
    x, _ = make_problem("scores", 9, 30, torch.float64)
    target = torch.randint(30, (9,), generator=torch.Generator().manual_seed(1))
    one_hot = F.one_hot(target, 30).double()
    teacher = one_hot if as_probabilities else one_hot.log()
    loss = sslkern.soft_cross_entropy(
        x.student, teacher, student_temperature=0.5, from_probabilities=as_probabilities
    )
    expected = F.cross_entropy(x.student / 0.5, target)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)


def test_scores_of_the_teacher_itself_give_its_entropy_and_no_gradient() -> None:
    x, _ = make_problem("scores", 9, 30, torch.float64)
    student = x.teacher.clone().requires_grad_()
    loss = sslkern.soft_cross_entropy(
        student, x.teacher, student_temperature=0.3, teacher_temperature=0.3
    )
    loss.backward()
    expected = torch.distributions.Categorical(logits=x.teacher / 0.3).entropy().mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-13, atol=1e-13)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15


def test_rows_without_mass_have_no_loss_and_no_gradient() -> None:
    x, options = make_problem("probabilities", 3, 30, torch.float32)
    result = evaluate(
        sslkern.soft_cross_entropy, x._replace(teacher=x.teacher * 0), torch.float32, **options
    )
    assert all(value.abs().max() == 0 for value in result.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_large_scores_cost_nothing(offset: float, dtype: torch.dtype) -> None:
    """Scores near 1e4 over temperatures of 0.005: exponents near 3 million."""
    x, _ = make_problem("scores", 5, 2000, dtype)
    far = Inputs((x.student + offset).to(dtype), (x.teacher + offset).to(dtype), x.grad)
    result = evaluate(sslkern.soft_cross_entropy, far, dtype, 0.005, teacher_temperature=0.005)
    exact = evaluate(
        reference.soft_cross_entropy, far, torch.float64, 0.005, teacher_temperature=0.005
    )
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # The reference divides first, which even in float64 costs digits at 2e6.
    torch.testing.assert_close(result["loss"].double(), exact["loss"], rtol=64 * eps, atol=1e-8)
    atol = max(torch.finfo(dtype).eps, 1e-9) * float(x.grad.max()) / 0.005
    torch.testing.assert_close(
        result["grad_student"].double(), exact["grad_student"], rtol=0, atol=atol
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_sorted_scores_match_reference(descending: bool, dtype: torch.dtype) -> None:
    """The largest element comes last, and with it ever new maxima; or first, and never another."""
    x, _ = make_problem("scores", 3, 5000, dtype)
    student, teacher = (z.sort(1, descending=descending).values for z in x[:2])
    assert_like_reference(Inputs(student, teacher, x.grad))
    assert_like_reference(Inputs(student, teacher.flip(1), x.grad))


def classes(case: str, k: int) -> Tensor:
    """Some of K classes: at random places, whole blocks of 1024, or all but one."""
    index = torch.arange(k)
    masks = {
        "scattered": index % 3 == 1,
        "first block": index < 1024,
        "last block": index >= k - 1024,
        "all but one": index != k // 2,
    }
    return masks[case]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", ["teacher", "both"])
@pytest.mark.parametrize("case", ["scattered", "first block", "last block", "all but one"])
def test_masked_classes_match_reference(case: str, masked: str, dtype: torch.dtype) -> None:
    """Scores of -inf; where those of both are, 0 * inf must not become NaN."""
    x, _ = make_problem("scores", 3, 3000, dtype)
    mask = classes(case, 3000)
    x.teacher[:, mask] = -INF
    if masked == "both":
        x.student[:, mask] = -INF
    assert_like_reference(x)
    result = evaluate(sslkern.soft_cross_entropy, x, dtype)
    assert all(value.isfinite().all() for value in result.values())
    if masked == "both":
        assert result["grad_student"][:, mask].abs().max() == 0


@pytest.mark.parametrize("case", ["scattered", "first block", "last block", "all but one"])
def test_masking_classes_is_deleting_them(case: str) -> None:
    x, _ = make_problem("scores", 3, 3000, torch.float64)
    mask = classes(case, 3000)
    deleted = evaluate(
        sslkern.soft_cross_entropy,
        Inputs(x.student[:, ~mask], x.teacher[:, ~mask], x.grad),
        torch.float64,
    )
    x.student[:, mask] = x.teacher[:, mask] = -INF
    result = evaluate(sslkern.soft_cross_entropy, x, torch.float64)
    result["grad_student"] = result["grad_student"][:, ~mask]
    for name, expected in deleted.items():
        torch.testing.assert_close(result[name], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_zero_forgive_any_score(dtype: torch.dtype) -> None:
    x, options = make_problem("probabilities", 4, 2100, dtype)
    for places in (slice(0, 1100), slice(2050, 2060)):
        x.teacher[:, places] = 0
        x.student[:, places] = -INF
    assert_like_reference(x, **options)


def test_teacher_far_below_its_maximum_forgives_any_score() -> None:
    """Masked by -1e9, as is common: a target of 0 once the maximum is known, in a later block."""
    x, _ = make_problem("scores", 3, 3000, torch.float32)
    mask = classes("first block", 3000)
    x.student[:, mask], x.teacher[:, mask] = -INF, -1e9
    result = evaluate(sslkern.soft_cross_entropy, x, torch.float32)
    x.teacher[:, mask] = -INF
    expected = evaluate(sslkern.soft_cross_entropy, x, torch.float32)
    assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", ["scores", "probabilities"])
def test_class_that_the_student_excludes_costs_infinity(form: str) -> None:
    x, options = make_problem(form, 4, 40, torch.float32)
    x.student[0, x.teacher[0].argmax()] = -INF
    loss = sslkern.soft_cross_entropy(x.student, x.teacher, reduction="none", **options)
    assert loss[0] == INF
    assert loss[1:].isfinite().all()


def test_teacher_without_classes_gives_nan() -> None:
    """As softmax does: there is no such distribution."""
    x, _ = make_problem("scores", 3, 40, torch.float32)
    x.teacher[1] = -INF
    result = evaluate(sslkern.soft_cross_entropy, x, torch.float32)
    assert result["loss"].isnan().tolist() == [False, True, False]
    assert result["grad_student"].isnan().all(1).tolist() == [False, True, False]
    assert result["grad_temperature"].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.parametrize("place", [37, 2999])
@pytest.mark.parametrize("bad", ["student", "teacher"])
@pytest.mark.parametrize("form", FORMS)
def test_nan_and_infinity_show_wherever_the_reference_has_nan(
    form: str, bad: str, place: int, value: float, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, 4, 3000, dtype)
    getattr(x, bad)[1, place] = value
    actual = evaluate(sslkern.soft_cross_entropy, x, dtype, **options)
    expected = evaluate(reference.soft_cross_entropy, x, torch.float64, **options)
    assert not actual["loss"][1].isfinite()
    assert actual["loss"][[0, 2, 3]].isfinite().all()
    for name, exact in expected.items():
        assert actual[name][exact.isnan()].isnan().all(), name


def test_nan_in_the_center_shows_everywhere() -> None:
    x, options = make_problem("center", 4, 40, torch.float32)
    options["center"][7] = math.nan
    assert all(
        value.isnan().all()
        for value in evaluate(sslkern.soft_cross_entropy, x, torch.float32, **options).values()
    )


def test_nan_upstream_shows_in_its_row() -> None:
    x, _ = make_problem("scores", 3, 40, torch.float32)
    x.grad[1] = math.nan
    grad = evaluate(sslkern.soft_cross_entropy, x, torch.float32)["grad_student"]
    assert grad.isnan().all(1).tolist() == [False, True, False]
    assert grad[[0, 2]].isfinite().all()


# ---- properties


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("form", FORMS)
def test_shifting_a_row_changes_nothing(form: str, size: float) -> None:
    x, options = make_problem(form, 20, 50, torch.float64)
    shift = torch.linspace(-size, size, 20, dtype=torch.float64)[:, None]
    teacher = x.teacher if form == "probabilities" else x.teacher - 2 * shift
    expected = evaluate(sslkern.soft_cross_entropy, x, torch.float64, **options)
    shifted = evaluate(
        sslkern.soft_cross_entropy,
        Inputs(x.student + shift, teacher, x.grad),
        torch.float64,
        **options,
    )
    for name, value in expected.items():
        torch.testing.assert_close(shifted[name], value, rtol=1e-11 * size, atol=1e-11 * size)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_classes_does_not_matter(form: str) -> None:
    x, options = make_problem(form, 20, 2500, torch.float64)
    order = torch.randperm(2500, generator=torch.Generator().manual_seed(1))
    expected = evaluate(sslkern.soft_cross_entropy, x, torch.float64, **options)
    if "center" in options:
        options["center"] = options["center"][order]
    moved = Inputs(x.student[:, order], x.teacher[:, order], x.grad)
    permuted = evaluate(sslkern.soft_cross_entropy, moved, torch.float64, **options)
    expected["grad_student"] = expected["grad_student"][:, order]
    for name, value in expected.items():
        torch.testing.assert_close(permuted[name], value, rtol=1e-11, atol=1e-11)


def test_center_is_subtracted_from_the_teacher() -> None:
    x, options = make_problem("center", 20, 50, torch.float64)
    loss = sslkern.soft_cross_entropy(x.student, x.teacher, **options)
    centered = sslkern.soft_cross_entropy(x.student, x.teacher - options["center"])
    torch.testing.assert_close(loss, centered, rtol=1e-13, atol=1e-13)


def test_scores_are_the_probabilities_of_their_softmax() -> None:
    x, _ = make_problem("scores", 20, 50, torch.float64)
    q = (x.teacher / 0.04).softmax(1)
    expected = sslkern.soft_cross_entropy(x.student, x.teacher)
    loss = sslkern.soft_cross_entropy(x.student, q, from_probabilities=True)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_loss_is_linear_in_the_probabilities() -> None:
    x, options = make_problem("probabilities", 20, 50, torch.float64)
    y, _ = make_problem("probabilities", 20, 50, torch.float64, seed=1)
    parts = [
        evaluate(sslkern.soft_cross_entropy, x._replace(teacher=t), torch.float64, **options)
        for t in (x.teacher, y.teacher, x.teacher + y.teacher)
    ]
    for name, whole in parts[2].items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_row_sums_to_zero(form: str) -> None:
    x, options = make_problem(form, 20, 50, torch.float64)
    grad = evaluate(sslkern.soft_cross_entropy, x, torch.float64, **options)["grad_student"]
    assert grad.sum(1).abs().max() < 1e-13


# ---- peers


def lightly(module: str) -> Any:
    try:
        return peers.import_peer("lightly", module)
    except UnavailableError as reason:
        pytest.skip(str(reason))


def assert_like_peer(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], student: Tensor
) -> None:
    """The same loss and gradient, to 1e-6 relative in float64: lightly's temperature is float32."""
    results = []
    for function in (ours, theirs):
        leaf = student.clone().requires_grad_()
        loss = function(leaf)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() / expected.abs().max() < 1e-6


def test_equals_dino_of_lightly() -> None:
    """All pairs of 2 teacher views and 4 student views but those of the same view."""
    peer = lightly("lightly.loss").DINOLoss(output_dim=33).double()
    g = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 6, 33, generator=g, dtype=torch.float64) / 5
    student = torch.randn(4, 6, 33, generator=g, dtype=torch.float64) / 5
    center = torch.randn(33, generator=g, dtype=torch.float64) / 5

    def theirs(views: Tensor) -> Tensor:
        peer.center.copy_(center)
        loss: Tensor = peer(list(teacher), list(views))
        return loss

    def ours(views: Tensor) -> Tensor:
        pairs = [
            sslkern.soft_cross_entropy(s, t, center=center)
            for i, t in enumerate(teacher)
            for j, s in enumerate(views)
            if i != j
        ]
        return torch.stack(pairs).mean()

    assert_like_peer(ours, theirs, student)


def test_equals_ibot_of_lightly() -> None:
    """Masked patches, each weighted by one over their number in its image."""
    peer = lightly("lightly.loss").IBOTPatchLoss(output_dim=33).double()
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 4, 4, generator=g) < 0.5
    count = mask.sum((1, 2))
    student, teacher = (
        torch.randn(int(count.sum()), 33, generator=g, dtype=torch.float64) / 5 for _ in range(2)
    )
    center = torch.randn(1, 33, generator=g, dtype=torch.float64) / 5
    weight = (1 / count).repeat_interleave(count) / 3

    def theirs(s: Tensor) -> Tensor:
        peer.center.center.copy_(center)
        loss: Tensor = peer(teacher, s, mask)
        return loss

    def ours(s: Tensor) -> Tensor:
        return sslkern.soft_cross_entropy(s, teacher, center=center, weight=weight, reduction="sum")

    assert_like_peer(ours, theirs, student)


# ---- determinism


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(300, 700), (5, 60000), (20000, 11)])
@pytest.mark.parametrize("form", FORMS)
def test_bitwise_the_same_for_any_thread_count(
    form: str, n: int, k: int, dtype: torch.dtype
) -> None:
    x, options = make_problem(form, n, k, dtype)
    torch.set_num_threads(1)
    expected = evaluate(sslkern.soft_cross_entropy, x, dtype, **options)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(2):
            again = evaluate(sslkern.soft_cross_entropy, x, dtype, **options)
            assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_row_does_not_depend_on_the_others() -> None:
    x, _ = make_problem("scores", 9, 1500, torch.float32)
    whole = evaluate(sslkern.soft_cross_entropy, x, torch.float32)
    for i in range(9):
        row = Inputs(*(z[i : i + 1] for z in x))
        alone = evaluate(sslkern.soft_cross_entropy, row, torch.float32)
        assert torch.equal(alone["loss"][0], whole["loss"][i])
        assert torch.equal(alone["grad_student"][0], whole["grad_student"][i])


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_left_alone(form: str) -> None:
    x, options = make_problem(form, 20, 1030, torch.float32)
    given = [*x, options.get("center", x.grad)]
    before = [z.clone() for z in given]
    evaluate(sslkern.soft_cross_entropy, x, torch.float32, **options)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


# ---- errors

S, T = torch.randn(4, 5), torch.randn(4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # matrices
        ({"student": S[0]}, ValueError, r"student to be of shape \(N, K\), got shape \(5,\)"),
        ({"student": S[None]}, ValueError, r"student to be of shape .* got shape \(1, 4, 5\)"),
        ({"student": S[:0], "teacher": T[:0]}, ValueError, r"student to be .* shape \(0, 5\)"),
        (
            {"student": S[:, :0], "teacher": T[:, :0]},
            ValueError,
            r"student to be .* shape \(4, 0\)",
        ),
        ({"teacher": T[:3]}, ValueError, r"teacher to be of the shape of student.*\(3, 5\)"),
        ({"teacher": T[:, :3]}, ValueError, r"teacher to be of the shape of student.*\(4, 3\)"),
        ({"teacher": T[0]}, ValueError, r"teacher to be of the shape of student.*\(5,\)"),
        ({"teacher": T.double()}, TypeError, r"teacher to be of the dtype .* got torch.float64"),
        ({"teacher": T.bfloat16()}, TypeError, r"teacher to be of the dtype .* got torch.bfloat16"),
        ({"student": S.long()}, TypeError, r"student to be of dtype .* got torch.int64"),
        ({"teacher": T.long()}, TypeError, r"teacher to be of dtype .* got torch.int64"),
        ({"student": S + 0j}, TypeError, r"student to be of dtype .* got torch.complex64"),
        ({"student": S.to_sparse()}, TypeError, r"student to be a dense tensor, got layout"),
        ({"teacher": T.to_sparse()}, TypeError, r"teacher to be a dense tensor, got layout"),
        ({"student": [1.0]}, TypeError, r"student to be a tensor, got list"),
        ({"teacher": None}, TypeError, r"teacher to be a tensor, got NoneType"),
        # what has no gradient
        (
            {"teacher": T.clone().requires_grad_()},
            ValueError,
            r"teacher to require no gradient, .* Pass teacher.detach\(\)",
        ),
        (
            {"center": torch.zeros(5, requires_grad=True)},
            ValueError,
            r"center to require no gradient, .* Pass center.detach\(\)",
        ),
        (
            {"teacher_temperature": torch.tensor(0.1, requires_grad=True)},
            ValueError,
            r"teacher_temperature to require no gradient, .* Pass teacher_temperature.detach\(\)",
        ),
        # temperatures
        *(
            case
            for name in ("student_temperature", "teacher_temperature")
            for case in (
                ({name: 0.0}, ValueError, name + r" to be positive and finite, got 0"),
                ({name: -1}, ValueError, name + r" to be positive and finite, got -1"),
                ({name: math.nan}, ValueError, name + r" to be positive and finite, got nan"),
                ({name: math.inf}, ValueError, name + r" to be positive and finite, got inf"),
                ({name: torch.tensor(0.0)}, ValueError, name + r" to be positive .* got 0"),
                ({name: torch.ones(4)}, ValueError, name + r" to be .* got shape \(4,\)"),
                ({name: torch.tensor(1)}, TypeError, name + r" to be of dtype"),
                ({name: "0.5"}, TypeError, name + r" to be a number .* got str"),
                ({name: True}, TypeError, name + r" to be a number .* got bool"),
            )
        ),
        ({"student_temperature": None}, TypeError, r"student_temperature to be a number .* None"),
        # center
        ({"center": torch.ones(4)}, ValueError, r"center to be of shape .* got shape \(4,\)"),
        ({"center": torch.ones(5, 1)}, ValueError, r"center to be of shape .* got shape \(5, 1\)"),
        ({"center": torch.ones(4, 5)}, ValueError, r"center to be of shape .* got shape \(4, 5\)"),
        ({"center": torch.ones(())}, ValueError, r"center to be of shape .* got shape \(\)"),
        (
            {"center": torch.ones(5, device="meta")},
            ValueError,
            r"center to be on the device of student, cpu, got meta",
        ),
        ({"center": torch.arange(5)}, TypeError, r"center to be of dtype .* got torch.int64"),
        ({"center": torch.ones(5).to_sparse()}, TypeError, r"center to be a dense tensor"),
        ({"center": 0.5}, TypeError, r"center to be a tensor, got float"),
        # probabilities
        (
            {"from_probabilities": True, "teacher_temperature": 0.04},
            ValueError,
            r"teacher_temperature to be None with from_probabilities, got 0.04",
        ),
        (
            {"from_probabilities": True, "center": torch.zeros(5)},
            ValueError,
            r"center to be None with from_probabilities, got a tensor",
        ),
        # reduction
        ({"reduction": "avg"}, ValueError, r"reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight to be of shape .* got shape \(3,\)"),
        ({"weight": torch.ones(4, 1)}, ValueError, r"weight to be of shape .* got shape \(4, 1\)"),
        ({"weight": torch.arange(4)}, TypeError, r"weight to be a floating-point tensor"),
        ({"weight": [1.0] * 4}, TypeError, r"weight to be a tensor, got list"),
    ],
)
def test_bad_input_is_refused(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^sslkern::soft_cross_entropy: expected " + message):
        sslkern.soft_cross_entropy(**{"student": S, "teacher": T, **options})


@pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature"])
def test_temperature_without_a_value_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"tensors to hold elements, got one on the meta device"):
        sslkern.soft_cross_entropy(S, T, **{name: torch.tensor(0.1, device="meta")})


def test_operator_refuses_center_of_probabilities_and_gradients_of_the_teacher() -> None:
    """What the public function has no way to ask for."""
    op, tau = torch.ops.sslkern.soft_cross_entropy_fwd, torch.tensor(0.1)
    with pytest.raises(ValueError, match="center to be None with probabilities"):
        op(S, T, tau, None, torch.zeros(5))
    loss, _ = op(S, T.clone().requires_grad_(), tau, tau, None)
    with pytest.raises(NotImplementedError, match="gradients of student and student_temperature"):
        loss.sum().backward()


def test_second_derivative_is_refused() -> None:
    student = S.clone().requires_grad_()
    loss = sslkern.soft_cross_entropy(student, T)
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(NotImplementedError, match="sslkern::soft_cross_entropy: expected the grad"):
        grad.square().sum().backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature"])
def test_module_refuses_temperature(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match=f"{name} to be positive and finite"):
        SoftCrossEntropyLoss(**{name: temperature})


def test_module_refuses_teacher_temperature_of_probabilities() -> None:
    with pytest.raises(ValueError, match="teacher_temperature to be None with from_prob"):
        SoftCrossEntropyLoss(teacher_temperature=0.1, from_probabilities=True)


# ---- torch integration


def test_module_equals_function() -> None:
    x, options = make_problem("center", 7, 8, torch.float32)
    loss_fn = SoftCrossEntropyLoss(0.2, 0.05)
    expected = sslkern.soft_cross_entropy(
        x.student, x.teacher, student_temperature=0.2, teacher_temperature=0.05, **options
    )
    assert torch.equal(loss_fn(x.student, x.teacher, options["center"]), expected)
    assert repr(loss_fn) == (
        "SoftCrossEntropyLoss(student_temperature=0.2, teacher_temperature=0.05)"
    )
    loss_fn.teacher_temperature = 0.07  # a schedule
    warmer = sslkern.soft_cross_entropy(
        x.student, x.teacher, student_temperature=0.2, teacher_temperature=0.07
    )
    assert torch.equal(loss_fn(x.student, x.teacher), warmer)
    assert torch.equal(
        SoftCrossEntropyLoss()(x.student, x.teacher),
        sslkern.soft_cross_entropy(x.student, x.teacher),
    )


def test_module_takes_probabilities() -> None:
    x, options = make_problem("probabilities", 7, 8, torch.float32)
    loss_fn = SoftCrossEntropyLoss(from_probabilities=True)
    expected = sslkern.soft_cross_entropy(x.student, x.teacher, **options)
    assert torch.equal(loss_fn(x.student, x.teacher), expected)
    assert "from_probabilities=True" in repr(loss_fn)


# From torch 2.14 on opcheck itself reads the .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", ["both", "student", "temperature"])
def test_opcheck(wanted: str, form: str, dtype: torch.dtype) -> None:
    x, options = make_problem(form, 6, 9, dtype)
    tau = torch.tensor(0.5, requires_grad=wanted != "student")
    inputs = (
        x.student.requires_grad_(wanted != "temperature"),
        x.teacher,
        tau,
        None if form == "probabilities" else torch.tensor(0.25),
        options.get("center"),
    )
    torch.library.opcheck(torch.ops.sslkern.soft_cross_entropy_fwd, inputs)


@pytest.mark.not_emulated
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_graph_break(form: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        sslkern.soft_cross_entropy, backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for n in (6, 9):
        x, options = make_problem(form, n, n + 4, torch.float32)
        options["weight"] = x.grad
        expected = evaluate(sslkern.soft_cross_entropy, x, torch.float32, **options)
        actual = evaluate(compiled, x, torch.float32, **options)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.not_emulated
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    x, options = make_problem("center", 6, 40, torch.float32)

    def training_loss(s: Tensor, t: Tensor, center: Tensor) -> Tensor:
        return sslkern.soft_cross_entropy(s * 2, t.relu(), center=center) + 1

    student = x.student.clone().requires_grad_()
    torch.compile(training_loss, fullgraph=True)(student, x.teacher, options["center"]).backward()
    expected = x.student.clone().requires_grad_()
    training_loss(expected, x.teacher, options["center"]).backward()
    torch.testing.assert_close(student.grad, expected.grad)


@pytest.mark.parametrize("wide", ["student", "teacher"])
def test_autocast_promotes_mixed_dtypes(wide: str) -> None:
    x, _ = make_problem("scores", 6, 40, torch.bfloat16)
    mixed = {"student": x.student, "teacher": x.teacher}
    mixed[wide] = mixed[wide].float()
    with autocast():
        loss = sslkern.soft_cross_entropy(**mixed)
    expected = sslkern.soft_cross_entropy(x.student.float(), x.teacher.float())
    assert torch.equal(loss, expected)


def test_autocast_trains_through_a_layer() -> None:
    layer = torch.nn.Linear(5, 40)
    with autocast():
        student = layer(torch.randn(6, 5))
        loss = sslkern.soft_cross_entropy(student, torch.randn(6, 40))
    loss.backward()
    assert student.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        assert sslkern.soft_cross_entropy(S, T, center=torch.zeros(5)).isfinite()
