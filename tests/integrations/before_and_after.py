"""A library's own classes before, within and after a patch: what tests of all libraries share."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sslkern.accuracy import assert_accurate
from sslkern.integrations import FallbackWarning, Patch

Apply = Callable[[], Patch]
Call = Callable[..., Tensor]


def evaluate(call: Call, *inputs: Tensor) -> list[Tensor]:
    """The loss and the gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    loss = call(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative to the largest element."""
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert y.isfinite().all()
        assert (x - y).abs().max() <= tolerance * y.abs().max()


class _Calls(TorchDispatchMode):
    """Counts the operators of sslkern."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.namespace == "sslkern"
        return func(*args, **(kwargs or {}))


def runs_ours(call: Callable[[], Any]) -> bool:
    """Whether an operator of sslkern takes part in a call."""
    with _Calls() as calls:
        call()
    return calls.count > 0


def assert_patch_keeps_numbers(
    apply: Apply, make: Callable[[], nn.Module], *inputs: Tensor
) -> None:
    """In float64; an instance of before, one of within and one of after give the same."""
    before = make()
    expected = evaluate(before, *inputs)
    with apply():
        assert_same(evaluate(before, *inputs), expected, 1e-9)
        assert_same(evaluate(make(), *inputs), expected, 1e-9)
    for x, y in zip(evaluate(before, *inputs), expected, strict=True):
        assert torch.equal(x, y)


def assert_patch_is_accurate(apply: Apply, make: Callable[[], nn.Module], *inputs: Tensor) -> None:
    """At most twice as far from the library in float64 as the library is in the inputs' dtype."""
    eager = evaluate(make(), *inputs)
    reference = evaluate(make().double(), *(x.double() for x in inputs))
    with apply():
        actual = evaluate(make(), *inputs)
    for number, three in enumerate(zip(actual, eager, reference, strict=True)):
        assert actual[number].dtype == eager[number].dtype
        assert_accurate(*three, f"result {number} in {inputs[0].dtype}")


@contextmanager
def one_fallback(reason: str) -> Iterator[None]:
    """Exactly one warning, and why."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        yield
    found = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    assert len(found) == 1, found
    assert reason in found[0]


def assert_falls_back(apply: Apply, call: Call, reason: str, *inputs: Tensor) -> None:
    """To the bit, however often; one warning, and one more after a new patch."""
    expected = evaluate(call, *inputs)
    for _ in range(2):
        with apply(), one_fallback(reason):
            for _ in range(3):
                for x, y in zip(evaluate(call, *inputs), expected, strict=True):
                    assert torch.equal(x, y)


def assert_same_error(apply: Apply, call: Callable[[], Any]) -> None:
    """The library's own, without a warning."""
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call()
    with apply(), pytest.raises(type(expected.value)) as got:
        call()
    assert str(got.value) == str(expected.value)
    assert "sslkern::" not in str(got.value)


def assert_training_goes_the_same_way(apply: Apply, train: Callable[[], list[float]]) -> None:
    """The losses of some steps, which fall."""
    expected = train()
    with apply():
        assert train() == pytest.approx(expected, rel=1e-9)
    assert expected[-1] < expected[0]


def assert_methods_come_back(apply: Apply, cls: type, name: str) -> None:
    """Nested, in any order, more than once."""
    own, original = name in vars(cls), getattr(cls, name)
    first, second = apply(), apply()
    assert getattr(cls, name) is not original
    first.unpatch()
    first.unpatch()
    assert getattr(cls, name) is not original
    second.unpatch()
    assert getattr(cls, name) is original
    assert (name in vars(cls)) == own
    with apply() as outer:
        with apply():
            pass
        assert outer.active
        assert getattr(cls, name) is not original
    assert getattr(cls, name) is original


def assert_modules_stay(
    apply: Apply, cls: type[nn.Module], *inputs: Tensor, **options: Any
) -> None:
    """Classes, instances, subclasses, copies, pickles and states are what they were."""

    class Before(cls):
        pass

    modules = [cls(**options), Before(**options)]
    file = io.BytesIO()
    torch.save(modules[0].state_dict(), file)
    expected = evaluate(copy.deepcopy(modules[0]), *inputs)
    stored = pickle.dumps(modules[0])
    with apply():
        file.seek(0)
        modules[0].load_state_dict(torch.load(file))
        modules += [cls(**options), copy.deepcopy(modules[0]), pickle.loads(stored)]
        modules += [pickle.loads(pickle.dumps(modules[0]))]
        for module in modules:
            assert isinstance(module, cls)
        assert isinstance(modules[1], Before)
        for module in (copy.deepcopy(module) for module in modules):
            assert_same(evaluate(module, *inputs), expected, 1e-9)
    assert pickle.dumps(modules[0]) == stored


def assert_second_derivative_stays(
    apply: Apply, make: Callable[[], nn.Module], *inputs: Tensor
) -> None:
    """Of a penalty on the gradient; the loss of the same call, too."""

    def penalty(*leaves: Tensor) -> Tensor:
        loss = make()(*leaves).sum()
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        return loss + sum(grad.square().sum() for grad in grads)

    expected = evaluate(penalty, *inputs)
    with apply():
        assert_same(evaluate(penalty, *inputs), expected, 1e-7)


def assert_graphs_are_kept_as_asked(
    apply: Apply, make: Callable[[], nn.Module], *inputs: Tensor
) -> None:
    """Backward again with ``retain_graph``, not without."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with apply():
        loss = make()(*leaves).sum()
        found = [torch.autograd.grad(loss, leaves, retain_graph=keep) for keep in (True, False)]
        assert_same(list(found[1]), list(found[0]), 1e-12)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, leaves)
