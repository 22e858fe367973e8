"""Ranks that disagree, are given wrong arguments, die or hang: an error on every rank, in time."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import CASES, Case
from ranks import MOST, RankError, Ranks
from torch import Tensor

import sslkern

SECONDS = 8  # of the group's timeout


def _views(dim: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.ones(3, dim, dtype=dtype), torch.eye(3, dim, dtype=dtype)


def _call(group: Any, other: dict[str, Any]) -> Tensor:
    """NT-Xent, with other arguments on the second rank."""
    given: dict[str, Any] = {"dim": 4, "dtype": torch.float32, "loss": sslkern.ntxent_loss}
    if dist.get_rank(group) == 1:
        given |= other
    z_a, z_b = _views(given.pop("dim"), given.pop("dtype"))
    if given.pop("requires_grad", False):
        z_a.requires_grad_()
    loss: Callable[..., Tensor] = given.pop("loss")
    return loss(z_a, z_b, gather_distributed=True, process_group=group, **given)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dim": 5}, r"shape of a row of z_a to be the same .* got \(4,\) on rank 0 and \(5,\) on"),
        ({"dtype": torch.float64}, "dtype of z_a .* got torch.float32 on rank 0 and torch.float64"),
        ({"temperature": 0.2}, "temperature to be the same on all ranks, got 0.5 .* 0.2 on rank 1"),
        (
            {"temperature": torch.tensor(0.2)},
            r"temperature to be the same on all ranks, got 0.5 on rank 0 and a tensor of 0\.2",
        ),
        ({"normalize": False}, "normalize to be the same on all ranks, got True .* False on rank"),
        ({"reduction": "sum"}, "reduction to be the same on all ranks, got 'mean' .* 'sum' on"),
        ({"strategy": "ring"}, "strategy to be the same on all ranks, got 'gather' .* 'ring' on"),
        ({"requires_grad": True}, "whether z_a requires grad .* got False on rank 0 and True"),
        ({"loss": sslkern.info_nce_loss}, "the loss to be the same .* got ntxent .* info_nce on"),
        ({"temperature": "warm"}, "temperature"),
        ({"reduction": "max"}, "reduction to be 'none', 'mean' or 'sum', got 'max'"),
        ({"weight": torch.ones(7)}, r"weight to be of shape .* got shape \(7,\)"),
        ({"dtype": torch.int64}, "z_a to be of dtype .* got torch.int64"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_ranks_that_disagree_all_raise(ranks: Ranks, other: dict[str, Any], message: str) -> None:
    for text in ranks.errors(3, _call, other).values():
        assert text.startswith(("ValueError: sslkern::", "TypeError: sslkern::"))
        assert re.search(message, text.partition("\n")[0])


def _learnt_temperature(group: Any, values: list[float]) -> Tensor:
    z_a, z_b = _views()
    temperature = torch.tensor(values[dist.get_rank(group)], requires_grad=True)
    return sslkern.ntxent_loss(
        z_a, z_b, temperature, gather_distributed=True, process_group=group
    ).detach()


def test_learnt_numbers_are_the_same_on_all_ranks(ranks: Ranks) -> None:
    first, second = ranks.run(2, _learnt_temperature, [0.25, 0.25])
    assert torch.equal(first, second)
    for text in ranks.errors(2, _learnt_temperature, [0.25, 0.5]).values():
        assert "got a tensor of 0.25, torch.float32, requires grad on rank 0 and a tensor" in text


def _case_of_rank(group: Any, number: int) -> None:
    """A loss with float32 on the second rank, and float64 on the others."""
    case, other = CASES[number], dist.get_rank(group) == 1
    dtype = torch.float32 if other else torch.float64
    sharing = {"gather_distributed": True, "process_group": group}
    case.value(case.inputs(4, dtype), case.learnt(dtype), **sharing)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_of_other_dtypes_all_raise(ranks: Ranks, case: Case) -> None:
    for text in ranks.errors(2, _case_of_rank, CASES.index(case)).values():
        assert re.match(r"ValueError: sslkern::\w+: expected the dtype of .* on all ranks", text)


def test_ranks_go_on_after_an_error(ranks: Ranks) -> None:
    with pytest.raises(RankError):
        ranks.run(2, _call, {"dim": 5})
    first, second = ranks.run(2, _call, {})
    assert torch.equal(first, second)


def _unchecked(group: Any) -> Tensor:
    z_a, z_b = _views()
    return sslkern.ntxent_loss(z_a, z_b, gather_distributed=True, process_group=group, check=False)


def test_without_the_check_ranks_have_as_many_rows(ranks: Ranks) -> None:
    z_a, z_b = _views()
    expected = sslkern.ntxent_loss(torch.cat([z_a] * 2), torch.cat([z_b] * 2))
    for found in ranks.run(2, _unchecked):
        torch.testing.assert_close(found, expected)


@pytest.fixture
def mortal() -> Iterator[Ranks]:
    """Ranks of this test's own, whose group does not wait long."""
    processes = Ranks(timedelta(seconds=SECONDS))
    yield processes
    processes.close()


def _with_fault(group: Any, fault: str, strategy: str, backward: bool) -> None:
    """The last rank dies or hangs, before the loss or before its gradient."""
    z_a, z_b = (z.requires_grad_() for z in _views())
    last = dist.get_rank(group) == dist.get_world_size(group) - 1

    def fail() -> None:
        if last and fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if last and fault == "hangs":
            time.sleep(8 * SECONDS)  # longer than the others are to wait

    if not backward:
        fail()
    loss = sslkern.ntxent_loss(
        z_a, z_b, gather_distributed=True, process_group=group, strategy=strategy
    )
    fail()
    loss.backward()


@pytest.mark.parametrize("strategy", ["gather", "ring"])
@pytest.mark.parametrize("backward", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_faults_end_in_errors(mortal: Ranks, fault: str, backward: bool, strategy: str) -> None:
    mortal.run(MOST, _with_fault, "none", strategy, backward)
    begin = time.monotonic()
    with pytest.raises(RankError) as error:
        mortal.run(MOST, _with_fault, fault, strategy, backward, awaited=MOST - 1)
    assert time.monotonic() - begin < 6 * SECONDS
    for rank in range(MOST - 1):
        text = error.value.errors[rank]
        assert text.startswith(f"RuntimeError: sslkern::ntxent: expected all {MOST} ranks to")
        assert f"got on rank {rank}: " in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "tree"}, ValueError, "strategy to be 'gather' or 'ring', got 'tree'"),
        ({"strategy": "ring"}, ValueError, "strategy to be 'gather' without gather_distributed"),
        ({"gather_distributed": 1}, TypeError, "gather_distributed to be a bool, got int"),
        ({"check": None}, TypeError, "check to be a bool, got NoneType"),
        ({"process_group": 3}, ValueError, "process_group to be None without gather_distributed"),
        (
            {"process_group": 3, "gather_distributed": True},
            ValueError,
            "process_group to be None where torch.distributed is not set up",
        ),
    ],
    ids=str,
)
def test_wrong_options_raise(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"sslkern::ntxent: expected {message}"):
        sslkern.ntxent_loss(*_views(), **options)


def test_one_process_may_gather() -> None:
    z_a, z_b = _views()
    alone = sslkern.ntxent_loss(z_a, z_b)
    assert torch.equal(sslkern.ntxent_loss(z_a, z_b, gather_distributed=True), alone)


def _twice(group: Any) -> None:
    z_a, z_b = (z.requires_grad_() for z in _views())
    loss = sslkern.ntxent_loss(z_a, z_b, gather_distributed=True, process_group=group)
    (grad,) = torch.autograd.grad(loss, z_a, create_graph=True)
    grad.square().sum().backward()


def test_second_derivatives_are_refused(ranks: Ranks) -> None:
    for text in ranks.errors(2, _twice).values():
        assert text.startswith("NotImplementedError: sslkern::ntxent: expected the gradient not")


Z = torch.eye(3, 4)
WHOLE = torch.zeros(3, dtype=torch.int64)
# Of InfoNCE, on two ranks: what both are given, what the second one is given, what all raise.
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"ids": WHOLE}, {"ids": WHOLE.int()}, "ids to be of dtype torch.int64, got torch.int32"),
    (
        {"ids": WHOLE, "key_ids": WHOLE},
        {"key_ids": WHOLE.int()},
        "key_ids to be of dtype torch.int",
    ),
    ({"ids": WHOLE}, {"ids": WHOLE[:2]}, r"ids to be of shape \(N,\) = \(3,\), got shape \(2,\)"),
    (
        {"target": WHOLE},
        {"target": WHOLE.int()},
        "target to be of dtype torch.int64, got torch.int",
    ),
    ({"bias": Z[0, :3]}, {"bias": WHOLE}, "bias to be of dtype torch.float64, .* got torch.int64"),
    ({}, {"label_smoothing": 2.0}, r"label_smoothing to be in \[0, 1\], got 2.0"),
    ({"negatives": Z}, {"negatives": Z[:, :3]}, r"negatives to be of shape \(K, 4\) with K > 0"),
    ({"negatives": Z}, {"negatives": Z[:2]}, r"the shape of negatives to be the same .* \(2, 4\)"),
    ({"negatives": Z}, {"negatives": Z.double()}, "negatives to be of the dtype of key"),
    (
        {"negatives": Z, "in_batch": True},
        {"negatives": Z[:0]},
        r"negatives to be of shape \(K, 4\) with K > 0, got shape \(0, 4\)",
    ),
    (
        {"negatives": Z, "ids": WHOLE, "key_ids": WHOLE},
        {"key_ids": WHOLE[:2]},
        r"key_ids to be of shape \(columns,\) = \(3,\), got shape \(2,\)",
    ),
]


def _info_nce_of_rank(group: Any, number: int) -> None:
    given, wrong, _ = WRONG[number]
    if dist.get_rank(group) == 1:
        given = given | wrong
    sslkern.info_nce_loss(Z, Z, **given, gather_distributed=True, process_group=group)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_one_rank_is_given_wrong_all_refuse(ranks: Ranks, number: int) -> None:
    for text in ranks.errors(2, _info_nce_of_rank, number).values():
        assert text.startswith(("ValueError: sslkern::", "TypeError: sslkern::"))
        assert re.search(WRONG[number][2], text.partition("\n")[0])


def _target_out_of_range(group: Any, strategy: str) -> None:
    """Two keys on each of two ranks: the second rank wants a fifth."""
    target = torch.tensor([0, 4 * dist.get_rank(group)])
    z = torch.eye(2, 4)
    sslkern.info_nce_loss(
        z, z, target=target, gather_distributed=True, process_group=group, strategy=strategy
    )


@pytest.mark.parametrize("strategy", ["gather", "ring"])
def test_targets_are_columns_of_all_ranks(ranks: Ranks, strategy: str) -> None:
    for text in ranks.errors(2, _target_out_of_range, strategy).values():
        assert "target to be of values in [0, 4), the columns of all ranks, got 4" in text


def _lonely(group: Any) -> None:
    z = torch.ones(int(dist.get_rank(group) == 0), 4)
    sslkern.dcl_loss(z, z, gather_distributed=True, process_group=group)


def test_one_pair_has_no_negatives(ranks: Ranks) -> None:
    for text in ranks.errors(2, _lonely).values():
        assert "z_a to be of at least two rows on all ranks together, got one" in text


def _empty(group: Any) -> None:
    z = torch.ones(0, 4)
    sslkern.ntxent_loss(z, z, gather_distributed=True, process_group=group)


def test_some_rank_has_rows(ranks: Ranks) -> None:
    for text in ranks.errors(2, _empty).values():
        assert "z_a to be of at least one row on some rank, got none on all ranks" in text
