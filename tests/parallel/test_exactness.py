"""Where losses over processes could be another number: autocast, constant rows, other groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import MOST, Ranks
from torch import Tensor

import sslkern

SPLIT = [3, 0, 4]
Loss = Callable[..., Tensor]


def _supcon(z_a: Tensor, z_b: Tensor, **sharing: Any) -> Tensor:
    return sslkern.supcon_loss(torch.stack([z_a, z_b], 1), temperature=0.5, **sharing)


LOSSES: dict[str, Loss] = {
    "ntxent": sslkern.ntxent_loss,
    "info_nce": sslkern.info_nce_loss,
    "clip": lambda a, b, **s: sslkern.clip_loss(a, b, 1.0, **s),
    "siglip": lambda a, b, **s: sslkern.siglip_loss(a, b, 1.0, **s),
    "supcon": _supcon,
    "pairwise": lambda a, b, **s: sslkern.supcon_loss(
        torch.stack([a, b], 1), variant="pairwise", temperature=0.5, **s
    ),
    "dcl": sslkern.dcl_loss,
    "uniformity": lambda a, b, **s: sslkern.uniformity(a, **s),
    "barlow twins": sslkern.barlow_twins_loss,
    "vicreg": sslkern.vicreg_loss,
    "covariance": lambda a, b, **s: sslkern.covariance_loss(a, **s),
    "mmcr": lambda a, b, **s: sslkern.mmcr_loss([a, b], **s),
    "frossl": lambda a, b, **s: sslkern.frossl_loss([a, b], **s),
}

# Of PyTorch's own operations, whose gradients autocast would round if it were on: as always there.
COMPOSED = ("mmcr", "frossl")


def _views(rows: int, dims: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, rows, dims, generator=g)
    return [z_a, z_a + z_b]


def _under_autocast(group: Any, name: str, dims: int) -> tuple[Tensor, Tensor]:
    z_a, z_b = (z.split(SPLIT)[dist.get_rank(group)].clone() for z in _views(sum(SPLIT), dims))
    z_a.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](z_a, z_b, gather_distributed=True, process_group=group)
        if name not in COMPOSED:
            loss.backward()
    if name in COMPOSED:
        loss.backward()
    assert z_a.grad is not None
    return loss.detach(), z_a.grad


@pytest.mark.parametrize("dims", [4, 12])
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_leaves_float32_as_it_is(ranks: Ranks, name: str, dims: int) -> None:
    """Products of rows are not rounded to bfloat16, neither in the loss nor in its gradient."""
    z_a, z_b = (z.double() for z in _views(sum(SPLIT), dims))
    expected = LOSSES[name](z_a.requires_grad_(), z_b)
    (grad,) = torch.autograd.grad(expected, z_a)
    found = ranks.run(len(SPLIT), _under_autocast, name, dims)
    for loss, _ in found:
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected.detach(), rtol=2e-6, atol=2e-6)
    got = torch.cat([x for _, x in found]).double() / len(SPLIT)
    assert (got - grad).norm() <= 1e-5 * grad.norm()


LEARNT: dict[str, Loss] = {
    "ntxent": lambda a, b, t, **s: sslkern.ntxent_loss(a, b, t, **s),
    "dcl": lambda a, b, t, **s: sslkern.dcl_loss(a, b, t, **s),
    "supcon": lambda a, b, t, **s: sslkern.supcon_loss(torch.stack([a, b], 1), None, t, **s),
    "uniformity": lambda a, b, t, **s: sslkern.uniformity(a, t, **s),
    "info_nce": lambda a, b, t, **s: sslkern.info_nce_loss(a, b, temperature=t, **s),
    "clip": lambda a, b, t, **s: sslkern.clip_loss(a, b, t, **s),
    "siglip": lambda a, b, t, **s: sslkern.siglip_loss(a, b, t, **s),
}


def _constant_rows(group: Any, name: str, split: list[int], strategy: str) -> Tensor:
    z_a, z_b = (z.split(split)[dist.get_rank(group)] for z in _views(sum(split), 4))
    number = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sharing = {"gather_distributed": True, "process_group": group, "strategy": strategy}
    LEARNT[name](z_a.double(), z_b.double(), number, **sharing).backward()
    assert number.grad is not None
    return number.grad


@pytest.mark.parametrize("strategy", ["gather", "ring"])
@pytest.mark.parametrize("split", [[3, 4], SPLIT], ids=str)
@pytest.mark.parametrize("name", LEARNT)
def test_a_number_may_be_all_that_is_learnt(
    ranks: Ranks, name: str, split: list[int], strategy: str
) -> None:
    z_a, z_b = (z.double() for z in _views(sum(split), 4))
    number = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(LEARNT[name](z_a, z_b, number), number)
    found = torch.stack(ranks.run(len(split), _constant_rows, name, split, strategy))
    torch.testing.assert_close(found.mean(), expected, rtol=1e-10, atol=1e-10)


ROWS: dict[str, Loss] = {
    "info_nce": lambda a, b, **s: sslkern.info_nce_loss(a, b, reduction="none", **s),
    "clip": lambda a, b, **s: sslkern.clip_loss(a, b, 2.0, reduction="none", **s),
    "siglip": lambda a, b, **s: sslkern.siglip_loss(a, b, 2.0, reduction="none", **s),
    "supcon": lambda a, b, **s: sslkern.supcon_loss(
        torch.stack([a, b], 1), reduction="none", **s
    ).reshape(-1, 2),
    "ressl": lambda a, b, **s: sslkern.ressl_loss(
        a, b, torch.eye(4).double(), reduction="none", **s
    ),
}


def _own_rows(group: Any, name: str) -> tuple[Tensor, Tensor]:
    z_a, z_b = (z.split(SPLIT)[dist.get_rank(group)].double() for z in _views(sum(SPLIT), 4))
    z_a.requires_grad_()
    rows = ROWS[name](z_a, z_b, gather_distributed=True, process_group=group)
    rows.square().sum().backward()
    assert z_a.grad is not None
    return rows.detach(), z_a.grad


@pytest.mark.parametrize("name", ROWS)
def test_rows_and_their_gradients_are_those_of_one_process(ranks: Ranks, name: str) -> None:
    """Each rank differentiates a function of its own rows: a gradient is that of their sum."""
    z_a, z_b = (z.double() for z in _views(sum(SPLIT), 4))
    expected = ROWS[name](z_a.requires_grad_(), z_b)
    (grad,) = torch.autograd.grad(expected.square().sum(), z_a)
    found = ranks.run(len(SPLIT), _own_rows, name)
    torch.testing.assert_close(torch.cat([x for x, _ in found]), expected.detach())
    torch.testing.assert_close(torch.cat([x for _, x in found]), grad, rtol=1e-9, atol=1e-10)


MEMBERS = [3, 1]  # of a group: neither the first ranks of the world, nor in their order


def _in_a_group(group: Any, name: str, strategy: str) -> tuple[Tensor, Tensor] | None:
    members = dist.new_group(sorted(MEMBERS))
    if dist.get_rank(group) not in MEMBERS:
        return None
    z_a, z_b = (z.split([5, 2])[dist.get_rank(members)].double() for z in _views(7, 4))
    sharing: dict[str, Any] = {"gather_distributed": True, "process_group": members}
    if strategy:
        sharing["strategy"] = strategy
    loss = LOSSES[name](z_a.requires_grad_(), z_b, **sharing)
    loss.backward()
    dist.destroy_process_group(members)
    assert z_a.grad is not None
    return loss.detach(), z_a.grad


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *[(name, how) for name in ("ntxent", "clip", "supcon") for how in ("gather", "ring")],
        ("vicreg", ""),
        ("mmcr", ""),
    ],
)
def test_groups_are_not_the_first_ranks(ranks: Ranks, name: str, strategy: str) -> None:
    z_a, z_b = (z.double() for z in _views(7, 4))
    expected = LOSSES[name](z_a.requires_grad_(), z_b)
    (grad,) = torch.autograd.grad(expected, z_a)
    found = [x for x in ranks.run(MOST, _in_a_group, name, strategy) if x is not None]
    assert len(found) == len(MEMBERS)
    for loss, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    got = torch.cat([x for _, x in found]) / len(MEMBERS)
    torch.testing.assert_close(got, grad, rtol=1e-9, atol=1e-10)


def _uneven_ids(group: Any, given: bool) -> Tensor:
    """Queries, keys and ids whose numbers differ by rank, and so do those of both."""
    rank, (query, key) = dist.get_rank(group), _views(5, 4)
    queries, keys = ([3, 2], [2, 3]) if given else ([3, 2], [3, 2])
    ids, target = torch.tensor([0, 1, 0, 2, 1]), torch.tensor([4, 3, 2, 1, 0])
    more = {"key_ids": ids.split(keys)[rank]} if given else {}
    return sslkern.info_nce_loss(
        query.double().split(queries)[rank],
        key.double().split(keys)[rank],
        target=target.split(queries)[rank],
        ids=ids.split(queries)[rank],
        **more,
        gather_distributed=True,
        process_group=group,
    )


@pytest.mark.parametrize("given", [True, False])
def test_ids_are_those_of_all_ranks(ranks: Ranks, given: bool) -> None:
    query, key = (z.double() for z in _views(5, 4))
    ids, target = torch.tensor([0, 1, 0, 2, 1]), torch.tensor([4, 3, 2, 1, 0])
    expected = sslkern.info_nce_loss(query, key, target=target, ids=ids, key_ids=ids)
    for loss in ranks.run(2, _uneven_ids, given):
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def _bank_of_rank(group: Any, size: Any, split: list[int]) -> list[Tensor]:
    torch.manual_seed(dist.get_rank(group))
    loss = sslkern.losses.NTXentLoss(0.3, size, True, process_group=group)
    return _three_steps(loss, lambda z: z.split(split)[dist.get_rank(group)])


def _three_steps(loss: Loss, of_rank: Callable[[Tensor], Tensor]) -> list[Tensor]:
    values = []
    for step in range(3):
        z_a, z_b = (of_rank(z + step).double() for z in _views(6, 4))
        values.append(loss(z_a.requires_grad_(), z_b).detach())
    return values


@pytest.mark.parametrize("size", [8, (8, 4)])
def test_bank_is_that_of_the_first_rank(ranks: Ranks, size: Any) -> None:
    """Ranks that draw with other seeds have one bank, also before its first rows are replaced."""
    torch.manual_seed(0)
    expected = _three_steps(sslkern.losses.NTXentLoss(0.3, size), lambda z: z)
    for found in ranks.run(2, _bank_of_rank, size, [2, 4]):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def _large_logits(group: Any) -> Tensor:
    image, text = (z.split([3, 4])[dist.get_rank(group)].double() for z in _views(7, 4))
    image.requires_grad_()
    scale = torch.tensor(1e12, dtype=torch.float64)
    sslkern.clip_loss(image, text, scale, gather_distributed=True, process_group=group).backward()
    assert image.grad is not None
    return image.grad


def test_large_logits_lose_no_digits_on_the_way(ranks: Ranks) -> None:
    """Sums are merged in the base in which the operators keep them."""
    image, text = (z.double() for z in _views(7, 4))
    (grad,) = torch.autograd.grad(sslkern.clip_loss(image.requires_grad_(), text, 1e12), image)
    got = torch.cat(ranks.run(2, _large_logits)) / 2
    assert (got - grad).norm() <= 1e-12 * grad.norm()


TWICE: dict[str, Loss] = {
    "soft_cross_entropy": lambda a, b, **s: sslkern.soft_cross_entropy(a, b, **s),
    "ressl": lambda a, b, **s: sslkern.ressl_loss(a, b, torch.eye(4), **s),
    "linear_cross_entropy": lambda a, b, **s: sslkern.linear_cross_entropy(
        a, torch.eye(4), torch.zeros(len(a), dtype=torch.int64), **s
    ),
    "sampled_logits": lambda a, b, **s: sslkern.negative_sampling_loss(
        a, torch.eye(4), torch.zeros(len(a), dtype=torch.int64), torch.ones(len(a), 2).long(), **s
    ),
}


def _twice_without_rows(group: Any, name: str) -> None:
    z_a, z_b = (z.split([7, 0])[dist.get_rank(group)].clone() for z in _views(7, 4))
    loss = TWICE[name](z_a.requires_grad_(), z_b, gather_distributed=True, process_group=group)
    (grad,) = torch.autograd.grad(loss, z_a, create_graph=True)
    grad.square().sum().backward()


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_refused_by_ranks_without_rows(ranks: Ranks, name: str) -> None:
    for text in ranks.errors(2, _twice_without_rows, name).values():
        assert text.startswith("NotImplementedError: sslkern::")


def _differentiated_twice(group: Any, name: str, dims: int) -> None:
    z_a, z_b = (z.split([3, 4])[dist.get_rank(group)] for z in _views(7, dims))
    sharing = {"gather_distributed": True, "process_group": group}
    rows = z_a.double().requires_grad_()
    loss = LOSSES[name](rows, z_b.double(), **sharing)
    (grad,) = torch.autograd.grad(loss, rows, create_graph=True)
    grad.square().sum().backward()


@pytest.mark.parametrize("dims", [4, 12])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("barlow twins", "barlow_twins_loss"),
        ("covariance", "covariance_loss"),
        ("vicreg", "covariance_loss"),
    ],
)
def test_second_derivatives_of_products_are_refused(
    ranks: Ranks, name: str, reference: str, dims: int
) -> None:
    for text in ranks.errors(2, _differentiated_twice, name, dims).values():
        assert text.startswith("NotImplementedError: sslkern::")
        assert f"sslkern.reference.{reference} in one process" in text
