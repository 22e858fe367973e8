"""SwAV over processes: queues that are split as the batch is not, the module, errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor

import sslkern
from sslkern.losses import SwAVLoss

K = 12
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}

# Rows of the batch and of the queues.
SPLITS = [
    ([10], [7]),
    ([5, 5], [0, 7]),
    ([10, 0], [0, 7]),
    ([0, 10], [0, 7]),
    ([3, 0, 7], [2, 4, 1]),
    ([4, 1, 0, 5], [7, 0, 0, 0]),
]
Split = tuple[list[int], list[int]]


def views_of_all(split: Split, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(0)

    def scores(rows: list[int], count: int) -> list[Tensor]:
        shape = (count, sum(rows), K)
        return list((torch.randn(shape, generator=g, dtype=torch.float64) / 4).to(dtype))

    return scores(split[0], 4), scores(split[1], 2)


def loss_and_gradients(
    views: list[Tensor], queues: list[Tensor], **sharing: Any
) -> tuple[Tensor, list[Tensor]]:
    """Two views of four are assigned; of the others one needs no gradient."""
    views = [z.clone().requires_grad_(i != 2) for i, z in enumerate(views)]
    loss = sslkern.swav_loss(views[:2], views[2:], queues, **sharing)
    (loss * 3).backward()
    return loss.detach(), [z.grad for z in views if z.grad is not None]


def of_one_rank(
    group: dist.ProcessGroup, split: Split, dtype: torch.dtype, check: bool
) -> tuple[Tensor, list[Tensor]]:
    rank = dist.get_rank(group)
    views, queues = (
        [z.split(counts)[rank] for z in group_of]
        for group_of, counts in zip(views_of_all(split, dtype), split, strict=True)
    )
    sharing = {"gather_distributed": True, "process_group": group, "check": check}
    return loss_and_gradients(views, queues, **sharing)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_loss_and_gradients_are_those_of_one_process(
    ranks: Ranks, split: Split, dtype: torch.dtype, check: bool
) -> None:
    found = ranks.run(len(split[0]), of_one_rank, split, dtype, check)
    loss, grads = loss_and_gradients(*views_of_all(split, dtype))
    bound = TOLERANCE[dtype]
    for value, _ in found:
        torch.testing.assert_close(value, loss, rtol=bound, atol=bound)
    for i, grad in enumerate(grads):
        mean = torch.cat([its[i] for _, its in found]) / len(found)
        torch.testing.assert_close(mean, grad, rtol=0, atol=bound)


def by_module(group: dist.ProcessGroup, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    split = ([3, 7], [2, 5])
    rank = dist.get_rank(group)
    views, queues = views_of_all(split, dtype)
    views = [z.split(split[0])[rank] for z in views]
    queues = [z.split(split[1])[rank] for z in queues]
    module = SwAVLoss(0.2, 4, 0.1, sinkhorn_gather_distributed=True, process_group=group)
    numbers = {"temperature": 0.2, "iterations": 4, "epsilon": 0.1}
    sharing = {"gather_distributed": True, "process_group": group}
    function = sslkern.swav_loss(views[:2], views[2:], queues, **numbers, **sharing)
    return module(views[:2], views[2:], queues), function


def test_module_equals_function(ranks: Ranks) -> None:
    for module, function in ranks.run(2, by_module, torch.float32):
        assert torch.equal(module, function)


def of_half_dtype(group: dist.ProcessGroup, split: list[int]) -> Tensor:
    views, _ = views_of_all((split, [0] * len(split)), torch.bfloat16)
    views = [z.split(split)[dist.get_rank(group)] for z in views]
    return sslkern.swav_loss(views[:2], views[2:], gather_distributed=True, process_group=group)


def test_half_dtypes_are_read_as_they_are(ranks: Ranks) -> None:
    split = [6, 0, 4]
    views, _ = views_of_all((split, [0]), torch.bfloat16)
    expected = sslkern.swav_loss(views[:2], views[2:])
    for loss in ranks.run(3, of_half_dtype, split):
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def with_wrong_arguments(group: dist.ProcessGroup, wrong: dict[int, dict[str, Any]]) -> None:
    options: dict[str, Any] = {"high_res": [torch.zeros(3, 4)] * 2}
    options |= wrong.get(dist.get_rank(group), {})
    sslkern.swav_loss(**options, gather_distributed=True, process_group=group)


@pytest.mark.parametrize(
    ("wrong", "on_rank_0"),
    [
        ({1: {"temperature": 0.2}}, "temperature to be the same on all ranks"),
        ({1: {"high_res": [torch.zeros(3, 4)] * 3}}, "views in high_res to be the same"),
        ({1: {"low_res": [torch.zeros(3, 4)]}}, "views require grad to be the same"),
        ({1: {"high_res": [torch.zeros(3, 5)] * 2}}, "a row of .* to be the same"),
        ({1: {"high_res": []}}, "got on rank 1: .*high_res to be a tensor, got list"),
        (
            {1: {"high_res": [torch.zeros(3, 4), torch.zeros(2, 4)]}},
            r"got on rank 1: .*high_res\[1\] to be of the batch size of high_res\[0\], 3, got 2",
        ),
        (
            {1: {"high_res": [torch.zeros(3, 4), torch.zeros(3, 4).double()]}},
            r"got on rank 1: .*high_res\[1\] to be of the dtype of high_res\[0\], torch.float32",
        ),
        ({1: {"queue": [torch.zeros(3, 5)] * 2}}, r"got on rank 1: .*queue\[0\] to be of shape"),
        ({1: {"queue": [torch.zeros(3, 4).long()] * 2}}, "got on rank 1: .*queue to be of .*dtype"),
        (
            {r: {"high_res": [torch.zeros(0, 4)] * 2} for r in (0, 1)},
            "to be of at least one row on some rank",
        ),
    ],
)
def test_ranks_that_disagree_are_told(ranks: Ranks, wrong: Any, on_rank_0: str) -> None:
    errors = ranks.errors(2, with_wrong_arguments, wrong)
    assert re.search(
        r"^ValueError: sslkern::swapped_prediction: expected .*" + on_rank_0, errors[0]
    )
