"""Modules whose rows are spread over processes against one process: values, gradients, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.parallel.spread import SpreadRows

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
ROWS = 7


class Nested(nn.Module):
    """Outputs of several kinds, one of which is no floating tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, *, weight: Tensor, scale: Tensor) -> Any:
        hidden = self.first(x) * weight[:, None] * scale
        return {"a": [hidden, self.second(hidden).sum(1)], "b": (hidden > 0, hidden.argmax(1))}


def encoder(kind: str) -> nn.Module:
    norm = {"track_running_stats": kind != "no running moments", "affine": kind != "no weight"}
    if kind == "rows":
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    if kind == "sequences":
        return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4))
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, 3)),
        nn.Conv2d(1, 4, (1, 2)),
        nn.BatchNorm2d(4, momentum=None if kind == "cumulative" else 0.3, **norm),
        nn.Conv2d(4, 4, 1),
    )


KINDS = ("rows", "sequences", "maps", "no running moments", "no weight", "cumulative")


def passes(
    group: Any, kind: str, dtype: torch.dtype, rows: int = ROWS
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs and gradients of two passes in training and one in evaluation, and the state.

    A map before the encoder, and one behind it that mixes all rows, are the same on all ranks.
    """
    torch.manual_seed(0)
    before, inner, x = nn.Linear(3, 3), encoder(kind), torch.randn(2, rows, 3)
    model = nn.ModuleList([before, inner]).to(dtype)
    found = []
    for step in range(3):
        model.train(step < 2)
        given = x[step % 2].to(dtype).requires_grad_()
        with SpreadRows([inner] if group is not None else [], group):
            z = inner(before(given))
        # Through a transpose, as cells of maps are: their gradient has its channels last.
        unit = F.normalize(z.flatten(2).transpose(1, 2).flatten(1) if z.dim() > 2 else z)
        ((unit @ unit.T).softmax(1) * torch.arange(rows)).sum().backward()
        found += [z.detach(), given.grad]
    grads = [mean_over_ranks(group, p.grad) for p in model.parameters()]
    found = [f if i % 2 == 0 else mean_over_ranks(group, f) for i, f in enumerate(found)]
    return [*found, *grads], model.state_dict()


def mean_over_ranks(group: Any, x: Tensor) -> Tensor:
    if group is None:
        return x
    x = x.clone()
    dist.all_reduce(x, group=group)
    return x / dist.get_world_size(group)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_outputs_gradients_and_moments_are_those_of_one_process(
    ranks: Ranks, kind: str, dtype: torch.dtype, size: int
) -> None:
    expected, state = passes(None, kind, dtype)
    bound = TOLERANCE[dtype]
    for tensors, their_state in ranks.run(size, passes, kind, dtype):
        for actual, value in zip(tensors, expected, strict=True):
            torch.testing.assert_close(actual, value, rtol=bound, atol=bound)
        assert their_state.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(their_state[name], value, rtol=bound, atol=bound)


def test_fewer_rows_than_ranks_are_whole_on_each(ranks: Ranks) -> None:
    args = ("maps", torch.float64, 3)
    expected, _ = passes(None, *args)
    for tensors, _ in ranks.run(4, passes, *args):
        for actual, value in zip(tensors, expected, strict=True):
            torch.testing.assert_close(actual, value, rtol=1e-10, atol=1e-10)


def nested(group: Any) -> Any:
    torch.manual_seed(0)
    module, x, weight = Nested(), torch.randn(ROWS, 3), torch.rand(ROWS)
    with SpreadRows([module] if group is not None else [], group), torch.no_grad():
        return module(x, weight=weight, scale=torch.tensor(2.0))


def test_arguments_and_outputs_of_all_kinds(ranks: Ranks) -> None:
    expected = nested(None)
    for found in ranks.run(3, nested):
        assert [type(x) for x in found.values()] == [list, tuple]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class Counting(nn.Module):
    """How many rows it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.seen.append(len(x))
        return x if mask is None else mask.to(x) @ x


def rows_seen(group: Any) -> tuple[list[int], list[Tensor]]:
    module, x = Counting(), torch.arange(ROWS * 2.0).view(ROWS, 2)
    masks = [None, torch.ones(ROWS, ROWS).triu()]
    with SpreadRows([module], group):
        found = [module(x, mask) for mask in masks]
    found.append(module(x))
    return module.seen, found


def test_each_rank_computes_its_rows_but_where_a_mask_may_not_be_split(ranks: Ranks) -> None:
    x = torch.arange(ROWS * 2.0).view(ROWS, 2)
    for own, (seen, found) in zip((3, 2, 2), ranks.run(3, rows_seen), strict=True):
        assert seen == [own, ROWS, ROWS]
        for actual, expected in zip(found, (x, x.flip(0).cumsum(0).flip(0), x), strict=True):
            assert torch.equal(actual, expected)


def under_autocast(group: Any) -> Tensor:
    torch.manual_seed(0)
    module, x = encoder("maps"), torch.randn(ROWS, 3)
    spread = SpreadRows([module] if group is not None else [], group)
    with spread, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        return module(x)


def test_autocast(ranks: Ranks) -> None:
    expected = under_autocast(None)
    for found in ranks.run(2, under_autocast):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


class Summed(nn.Module):
    """A sum over the rows, where a row each is expected."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0)


def call_spread(group: Any, module: nn.Module, shape: tuple[int, ...]) -> bool:
    """What it raises; and whether it runs whole afterwards."""
    try:
        with SpreadRows([module], group):
            module(torch.rand(shape))
    finally:
        assert "forward" not in vars(module)
    return True


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Summed(), (4, 3), r"SpreadRows: expected what a module returns to be of 2 rows, as its "),
        (nn.Dropout(0.5), (4, 3), r"SpreadRows: expected a module to be one that draws no random"),
        (nn.BatchNorm1d(3), (2, 3), r"^True$"),
    ],
    ids=["rows", "random", "one row each"],
)
def test_modules_that_cannot_be_spread_are_named(
    ranks: Ranks, module: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    if message == "^True$":
        assert ranks.run(2, call_spread, module, shape) == [True, True]
        return
    for text in ranks.errors(2, call_spread, module, shape).values():
        assert re.search("^ValueError: sslkern::" + message, text)


def norm_of_one_value(group: Any) -> None:
    from sslkern.parallel.batch_norm import batch_norm
    from sslkern.parallel.spread import PartsOfRows

    batch_norm(PartsOfRows(group, 1), torch.rand(1, 3), None, None, training=True)


def test_one_value_is_refused_as_torch_does(ranks: Ranks) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        F.batch_norm(torch.rand(1, 3), None, None, training=True)
    (text,) = ranks.errors(1, norm_of_one_value).values()
    assert "Expected more than 1 value per channel when training, got (1, 3)" in text
