"""Sinkhorn over processes against one process: plans, potentials, diagnostics, errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from sinkhorn_cases import FORMS, inputs, of_rank, results
from torch import Tensor

import sslkern
from sslkern.losses import SinkhornKnopp

# Rows of the batch and of the queue: even, uneven, none of either, none of both.
SPLITS = [
    ([40], [24]),
    ([20, 20], [12, 12]),
    ([33, 7], [0, 24]),
    ([0, 40], [24, 0]),
    ([40, 0], [24, 0]),
    ([14, 14, 12], [8, 8, 8]),
    ([39, 0, 1], [3, 20, 1]),
    ([10, 10, 10, 10], [6, 6, 6, 6]),
    ([0, 30, 0, 10], [0, 5, 19, 0]),
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 0.01}
OF_OWN_ROWS = {"plan": -2, "f": -1}

Split = tuple[list[int], list[int]]


def of_one_rank(
    group: dist.ProcessGroup, form: str, split: Split, dtype: torch.dtype, more: dict[str, Any]
) -> dict[str, Tensor]:
    batch, queued = split
    everything = inputs(FORMS[form], sum(batch), sum(queued), dtype)
    mine = of_rank(everything, dist.get_rank(group), batch, queued)
    options = FORMS[form].options | {"gather_distributed": True, "process_group": group}
    return results(options | more, **mine)


def assert_like_one_process(
    ranks: Ranks, form: str, split: Split, dtype: torch.dtype, **more: Any
) -> None:
    found = ranks.run(len(split[0]), of_one_rank, form, split, dtype, more)
    everything = inputs(FORMS[form], sum(split[0]), sum(split[1]), dtype)
    expected = results(FORMS[form].options, **everything)
    exponent = 1 / FORMS[form].options.get("epsilon", 0.05)
    for name, value in expected.items():
        if name in OF_OWN_ROWS:
            actual = [torch.cat([x[name] for x in found], OF_OWN_ROWS[name])]
        else:
            actual = [x[name] for x in found]
            assert all(torch.equal(x, actual[0]) for x in actual)
        scale = max(1.0, float(value.abs().max()))
        if name in ("g", "f") or exponent > 100:
            scale = max(scale, exponent)
        bound = TOLERANCE[dtype] * scale
        for x in actual:
            torch.testing.assert_close(
                x, value, rtol=0, atol=bound, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *((form, dtype) for form in FORMS for dtype in (torch.float64, torch.float32)),
        *((form, torch.bfloat16) for form in ("everything", "probabilities")),
    ],
    ids=str,
)
def test_rows_are_assigned_as_in_one_process(
    ranks: Ranks, form: str, split: Split, dtype: torch.dtype
) -> None:
    assert_like_one_process(ranks, form, split, dtype)


@pytest.mark.parametrize("form", ["everything", "tolerance"])
def test_without_a_check_of_the_arguments(ranks: Ranks, form: str) -> None:
    for split in SPLITS:
        assert_like_one_process(ranks, form, split, torch.float64, check=False)


def plan_into_scores(group: dist.ProcessGroup, split: list[int]) -> tuple[Tensor, Tensor]:
    mine = inputs(FORMS["plain"], sum(split), 0, torch.float32)["scores"]
    mine = mine.split(split)[dist.get_rank(group)].clone()
    sharing = {"gather_distributed": True, "process_group": group}
    apart = torch.full_like(mine, -1.0)
    assert sslkern.sinkhorn(mine, out=apart, **sharing) is apart
    module = SinkhornKnopp(**sharing)
    assert torch.equal(module(mine), apart)
    assert sslkern.sinkhorn(mine, out=mine, **sharing) is mine
    return apart, mine


def test_plan_is_written_where_it_is_asked_for(ranks: Ranks) -> None:
    split = [5, 0, 8]
    found = ranks.run(3, plan_into_scores, split)
    expected = sslkern.sinkhorn(inputs(FORMS["plain"], 13, 0, torch.float32)["scores"])
    for i in (0, 1):
        plan = torch.cat([x[i] for x in found])
        torch.testing.assert_close(plan, expected, rtol=0, atol=1e-6)


def count_reductions(group: dist.ProcessGroup, options: dict[str, Any]) -> list[tuple[int, ...]]:
    shapes, all_reduce = [], dist.all_reduce

    def counted(x: Tensor, *rest: Any, **more: Any) -> Any:
        shapes.append(tuple(x.shape))
        return all_reduce(x, *rest, **more)

    dist.all_reduce = counted
    try:
        scores = inputs(FORMS["problems"], 8, 0, torch.float32)["scores"]
        sslkern.sinkhorn(scores, **options, gather_distributed=True, process_group=group)
    finally:
        dist.all_reduce = all_reduce
    return shapes


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_iterations_take_one_sum_each_and_one_maximum(ranks: Ranks, iterations: int) -> None:
    found = ranks.run(2, count_reductions, {"iterations": iterations})
    assert [len(x) for x in found] == [iterations + (iterations > 0)] * 2
    (settled, same) = ranks.run(2, count_reductions, {"iterations": 100, "tolerance": 1e-3})
    assert len(settled) == len(same) < 101


def with_wrong_arguments(group: dist.ProcessGroup, wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"scores": torch.zeros(3, 4), "epsilon": 0.05}
    options |= wrong.get(dist.get_rank(group), {})
    sslkern.sinkhorn(**options, gather_distributed=True, process_group=group)


@pytest.mark.parametrize(
    ("wrong", "on_rank_0"),
    [
        ({1: {"epsilon": 0.1}}, "epsilon to be the same on all ranks, got 0.05 on rank 0 and 0.1"),
        ({1: {"iterations": 4}}, "iterations to be the same on all ranks"),
        ({1: {"scores": torch.zeros(3, 5)}}, "the shape of a row of scores to be the same"),
        ({1: {"scores": torch.zeros(1, 3, 4)}}, "the number of problems to be the same"),
        ({1: {"row_weight": torch.ones(3)}}, "whether there is a row_weight to be the same"),
        ({1: {"tolerance": 0.1}}, "tolerance to be the same on all ranks"),
        ({1: {"queue": torch.zeros(3, 5)}}, r"got on rank 1: .*queue to be of a shape to go with"),
        ({1: {"queue": torch.zeros(3, 4).double()}}, "got on rank 1: .*queue to be of the dtype"),
        ({1: {"out": torch.zeros(2, 4)}}, "got on rank 1: .*out to be of a shape to go with"),
        ({1: {"scores": [1.0]}}, "got on rank 1: .*scores to be a tensor, got list"),
        ({1: {"iterations": -1}}, "got on rank 1: .*iterations to be at least 0, got -1"),
        (
            {r: {"row_weight": torch.ones(3) * (1 - 2 * r)} for r in (0, 1)},
            "got on rank 1: .*row_weight to be non-negative",
        ),
        (
            {r: {"row_weight": torch.zeros(3)} for r in (0, 1)},
            "row_weight to be of a positive, finite sum over all ranks",
        ),
        (
            {r: {"scores": torch.zeros(0, 4)} for r in (0, 1)},
            "scores to be of at least one row on some rank",
        ),
    ],
)
def test_ranks_that_disagree_are_told(ranks: Ranks, wrong: Any, on_rank_0: str) -> None:
    errors = ranks.errors(2, with_wrong_arguments, wrong)
    assert re.search(r"^ValueError: sslkern::sinkhorn: expected .*" + on_rank_0, errors[0])
