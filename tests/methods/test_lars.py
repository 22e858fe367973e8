"""LARS against the formula in plain numbers, and against torch's SGD where they agree."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkern.methods.parts.lars import LARS


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))


def gradients(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return list(torch.randn(count, *shape, generator=generator, dtype=torch.float64))


def formula(
    w: list[float],
    grads: list[list[float]],
    lr: float,
    momentum: float,
    decay: float,
    eta: float,
    clip: bool,
) -> list[float]:
    """The algorithm for one tensor, in Python's own numbers."""
    w, v = list(w), [0.0] * len(w)
    for g in grads:
        length, slope = math.hypot(*w), math.hypot(*g)
        ratio = eta * length / (slope + decay * length + 1e-8)
        if clip:
            ratio = min(ratio / lr, 1.0)
        for i in range(len(w)):
            v[i] = momentum * v[i] + ratio * (g[i] + decay * w[i])
        w = [a - lr * b for a, b in zip(w, v, strict=True)]
    return w


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.5, 1e-3)])
@pytest.mark.parametrize("eta", [0.001, 0.3])
def test_equals_the_formula(clip: bool, momentum: float, decay: float, eta: float) -> None:
    weight = parameter(3, 2)
    grads = gradients(5, 3, 2)
    plain = [g.flatten().tolist() for g in grads]
    start = weight.detach().flatten().tolist()
    expected = formula(start, plain, 0.2, momentum, decay, eta, clip)
    optimizer = LARS([weight], 0.2, momentum, decay, eta, clip=clip)
    for weight.grad in grads:
        optimizer.step()
    actual = weight.detach().flatten().tolist()
    assert actual == pytest.approx(expected, rel=1e-12)


def test_clip_takes_the_smaller_of_both_rates() -> None:
    """By hand: lengths 5 and 10, so the rate of the trust ratio is eta / 2."""
    for eta, rate in ((0.1, 0.05), (10.0, 0.2)):
        weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
        weight.grad = torch.tensor([[10.0, 0.0]], dtype=torch.float64)
        LARS([weight], lr=0.2, trust_coefficient=eta, clip=True).step()
        assert weight[0].tolist() == pytest.approx([3 - rate * 10, 4])


@pytest.mark.parametrize("shape", [(), (4,)])
def test_vectors_are_plain_sgd_without_decay(shape: tuple[int, ...]) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    optimizer = LARS([ours], lr=0.1, weight_decay=0.5)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for gradient in gradients(4, *shape):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        sgd.step()
    assert torch.equal(ours, theirs)


def sgd_step(weight: Tensor) -> Tensor:
    return weight.detach() - 0.1 * torch.ones_like(weight)


def lars_step(weight: Tensor) -> Tensor:
    w = weight.detach()
    return w - 0.1 * 0.001 * w.norm() / (math.sqrt(w.numel()) + 0.5 * w.norm()) * (1 + 0.5 * w)


@pytest.mark.parametrize(
    ("options", "group", "matrix", "vector"),
    [
        ({}, {}, lars_step, sgd_step),
        ({}, {"adapt": True}, lars_step, lars_step),
        ({}, {"adapt": False}, sgd_step, sgd_step),
        ({"exclude": lambda p: p.dim() == 2}, {}, sgd_step, lars_step),
        ({"exclude": lambda p: True}, {"adapt": True}, lars_step, lars_step),
    ],
)
def test_who_adapts(
    options: dict[str, Any],
    group: dict[str, Any],
    matrix: Callable[[Tensor], Tensor],
    vector: Callable[[Tensor], Tensor],
) -> None:
    weights = [parameter(3, 2), parameter(4)]
    expected = [matrix(weights[0]), vector(weights[1])]
    optimizer = LARS([{"params": weights, **group}], lr=0.1, weight_decay=0.5, **options)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), value, rtol=1e-7, atol=0)


def test_zeros_leave_zero_at_the_full_rate() -> None:
    for clip in (False, True):
        weight = nn.Parameter(torch.zeros(2, 2))
        weight.grad = torch.ones(2, 2)
        LARS([weight], lr=0.5, clip=clip).step()
        assert torch.equal(weight.detach(), torch.full((2, 2), -0.5))


def test_zero_gradients_and_a_rate_of_zero_stay_finite() -> None:
    weight = parameter(2, 2)
    before = weight.detach().clone()
    optimizer = LARS([weight], lr=0.5, clip=True)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, before)
    optimizer.param_groups[0]["lr"] = 0.0  # as a scheduler sets it
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert torch.equal(weight, before)


def test_the_step_does_not_depend_on_the_scale_of_the_gradient() -> None:
    steps = []
    for scale in (1.0, 1e6):
        weight = parameter(4, 3)
        before = weight.detach().clone()
        weight.grad = scale * gradients(1, 4, 3)[0]
        LARS([weight], lr=1.0).step()
        steps.append(weight.detach() - before)
        assert float(steps[-1].norm() / before.norm()) == pytest.approx(0.001, rel=1e-7)
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-7, atol=0)


def train(model: nn.Module, optimizer: LARS, steps: range) -> None:
    for i in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def make() -> tuple[nn.Module, LARS]:
    model = nn.Linear(3, 2)
    return model, LARS(model.parameters(), lr=0.3, weight_decay=0.01, trust_coefficient=0.1)


def test_a_resumed_run_is_exact() -> None:
    model, optimizer = make()
    train(model, optimizer, range(3))
    resumed, other = make()
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (resumed, other)):
        train(m, o, range(3, 6))
    assert torch.equal(model.weight, resumed.weight)
    assert torch.equal(model.bias, resumed.bias)


def test_copies_keep_the_predicate() -> None:
    optimizer = make()[1]
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.exclude is optimizer.exclude


def test_half_weights_have_norms_of_full_range() -> None:
    weight = nn.Parameter(torch.full((300, 300), 100.0, dtype=torch.float16))
    weight.grad = torch.full_like(weight, 200.0)  # a norm of 60000: its square is no half
    LARS([weight], lr=1.0, trust_coefficient=0.5).step()
    assert weight.dtype == torch.float16
    assert torch.equal(weight.detach(), torch.full_like(weight, 50.0))


def test_groups_have_numbers_of_their_own_and_gradients_may_be_missing() -> None:
    first, second, idle = parameter(2), parameter(2, seed=1), parameter(2, seed=2)
    before = [p.detach().clone() for p in (first, second, idle)]
    optimizer = LARS([first, idle], lr=0.1)
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
    optimizer.step()
    torch.testing.assert_close(first.detach(), before[0] - 0.1)
    torch.testing.assert_close(second.detach(), before[1] - 0.2)
    assert torch.equal(idle, before[2])


def test_the_closure_is_run_with_gradients() -> None:
    weight = parameter(2, 2)
    optimizer = LARS([weight], lr=0.1)

    def closure() -> Tensor:
        loss = weight.sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.requires_grad
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("lr", 0.0, "positive and finite"),
        ("lr", -1.0, "positive and finite"),
        ("momentum", 1.5, "from 0 to 1"),
        ("weight_decay", -0.1, "finite and not negative"),
        ("trust_coefficient", 0.0, "positive and finite"),
        ("eps", 0.0, "positive and finite"),
    ],
)
def test_numbers_have_ranges(name: str, value: float, requirement: str) -> None:
    message = f"sslkern::LARS: expected {name} to be {requirement}, got {value}"
    with pytest.raises(ValueError, match=message):
        LARS([parameter(2)], **{"lr": 0.1, name: value})
    with pytest.raises(ValueError, match=message):
        LARS([{"params": [parameter(2)], name: value}], lr=0.1)


def test_options_have_types() -> None:
    with pytest.raises(TypeError, match="expected lr to be a number, got str"):
        LARS([parameter(2)], lr="fast")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected adapt to be a bool or None, got int"):
        LARS([{"params": [parameter(2)], "adapt": 1}], lr=0.1)
    with pytest.raises(TypeError, match="expected clip to be a bool, got float"):
        LARS([parameter(2)], lr=0.1, clip=0.02)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected clip to be a bool, got NoneType"):
        LARS([{"params": [parameter(2)], "clip": None}], lr=0.1)
    with pytest.raises(TypeError, match="expected exclude to be a function of a parameter, got l"):
        LARS([parameter(2)], lr=0.1, exclude=["bias"])  # type: ignore[arg-type]


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"expected gradients to be dense, got layout torch.sparse"):
        LARS(table.parameters(), lr=0.1).step()
