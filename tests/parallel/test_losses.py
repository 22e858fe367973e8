"""Losses over processes against one process: values, all gradients, three steps of an optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import CASES, Case
from ranks import Ranks
from torch import Tensor

import sslkern

# How many rows each rank has: even, uneven, none. Float32 differs in its rounding alone.
SPLITS = {
    torch.float64: ([6], [3, 3], [0, 6], [3, 0, 4], [2, 3, 1, 2], [4, 0, 0, 3]),
    torch.float32: ([5, 1], [2, 3, 1, 2]),
}
STEPS = 3
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


def every_case() -> list[Any]:
    return [
        pytest.param(case, strategy, split, dtype, id=f"{case}-{strategy}-{split}-{dtype}")
        for dtype, splits in SPLITS.items()
        for case in CASES
        for strategy in case.strategies
        for split in splits
    ]


@pytest.mark.parametrize(("case", "strategy", "split", "dtype"), every_case())
def test_steps_are_those_of_one_process(
    ranks: Ranks, case: Case, strategy: str, split: list[int], dtype: torch.dtype
) -> None:
    number = CASES.index(case)
    found = ranks.run(len(split), _steps_of_rank, number, split, dtype, strategy)
    expected = _steps(case, case.inputs(sum(split), dtype), case.learnt(dtype))
    assert_close = _comparison(dtype)
    for rank, (losses, learnt, _) in enumerate(found):
        assert_close(losses, expected[0], f"losses of rank {rank}")
        for name, value in expected[1].items():
            assert_close(learnt[name], value, f"{name} of rank {rank}")
    for name, value in expected[2].items():
        grads = torch.cat([grads[name] for _, _, grads in found])
        assert_close(grads / len(split), value, f"gradients of {name}")


def _comparison(dtype: torch.dtype) -> Any:
    bound = TOLERANCE[dtype]

    def assert_close(x: Tensor, y: Tensor, what: str) -> None:
        """Relative to the largest element."""
        largest = max(1.0, y.abs().max().item()) if y.numel() else 1.0
        torch.testing.assert_close(
            x, y, rtol=0, atol=bound * largest, msg=lambda text: f"{what}: {text}"
        )

    return assert_close


def _steps_of_rank(
    group: dist.ProcessGroup, number: int, split: list[int], dtype: torch.dtype, strategy: str
) -> Any:
    case, rank = CASES[number], dist.get_rank(group)
    inputs = case.inputs(sum(split), dtype)
    mine = {name: x.split(split)[rank] for name, x in inputs.items()}
    sharing: dict[str, Any] = {"gather_distributed": True, "process_group": group}
    if len(case.strategies) > 1:
        sharing["strategy"] = strategy

    def mean_over_ranks(grad: Tensor) -> None:
        dist.all_reduce(grad, group=group)
        grad /= len(split)

    return _steps(case, mine, case.learnt(dtype), mean_over_ranks, **sharing)


def _steps(
    case: Case,
    inputs: Mapping[str, Tensor],
    learnt: dict[str, Tensor],
    synchronize: Any = None,
    **sharing: Any,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Losses, what has been learnt, and the gradients of the rows in the first step."""
    losses, first = [], {}
    for step in range(STEPS):
        loss, z = case.value(inputs, learnt, **sharing)
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            first = {name: rows.grad for name, rows in z.items()}
        for value in learnt.values():
            if synchronize is not None:
                synchronize(value.grad)
            with torch.no_grad():
                value -= case.rate * value.grad
            value.grad = None
    return torch.stack(losses), {k: v.detach() for k, v in learnt.items()}, first


PAIRS = {
    "ntxent_loss": sslkern.ntxent_loss,
    "info_nce_loss": sslkern.info_nce_loss,
    "dcl_loss": sslkern.dcl_loss,
    "siglip_loss": partial(sslkern.siglip_loss, logit_scale=2.0),
}


def _mixed(rows: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, rows, 4, generator=g, dtype=torch.float64)
    return z_a.float(), z_b


def _mixed_of_rank(group: dist.ProcessGroup, name: str, split: list[int]) -> Tensor:
    z_a, z_b = (z.split(split)[dist.get_rank(group)] for z in _mixed(sum(split)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return PAIRS[name](z_a, z_b, gather_distributed=True, process_group=group)


@pytest.mark.parametrize("name", PAIRS)
def test_autocast_promotes_mixed_dtypes(ranks: Ranks, name: str) -> None:
    z_a, z_b = _mixed(7)
    expected = PAIRS[name](z_a.double(), z_b)
    for loss in ranks.run(3, _mixed_of_rank, name, [3, 0, 4]):
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


HALF = {
    "ntxent_loss": partial(sslkern.ntxent_loss, temperature=0.1),
    "info_nce_loss": partial(sslkern.info_nce_loss, temperature=0.1, symmetric=True),
    "siglip_loss": partial(sslkern.siglip_loss, logit_scale=2.0, logit_bias=-1.0),
    "vicreg_loss": sslkern.vicreg_loss,
    "tico_loss": partial(sslkern.tico_loss, state=torch.eye(24)),
}


def _correlated(rows: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 24, generator=g)
    return [x.to(dtype) for x in (z, z + torch.randn(rows, 24, generator=g))]


def _half_of_rank(
    group: dist.ProcessGroup, name: str, split: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    views = _correlated(sum(split), dtype)
    z_a, z_b = (z.split(split)[dist.get_rank(group)].clone() for z in views)
    loss = HALF[name](z_a.requires_grad_(), z_b, gather_distributed=True, process_group=group)
    loss.backward()
    assert z_a.grad is not None
    return loss.detach(), z_a.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", HALF)
def test_half_inputs_are_rounded_a_few_times(ranks: Ranks, name: str, dtype: torch.dtype) -> None:
    """The loss is that of float32; a gradient's blocks are rounded, and their sum is."""
    split = [30, 0, 34]
    z_a, z_b = (z.double() for z in _correlated(sum(split), dtype))
    loss = HALF[name](z_a.requires_grad_(), z_b)
    (grad,) = torch.autograd.grad(loss, z_a)
    found = ranks.run(3, _half_of_rank, name, split, dtype)
    for value, _ in found:
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), loss.detach(), rtol=1e-6, atol=0)
    got = torch.cat([x for _, x in found])
    assert got.dtype == dtype
    assert (got.double() / 3 - grad).norm() < torch.finfo(dtype).eps * grad.norm()
