"""Modules over processes: what they hold, and open_clip's in as many processes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import MOST, Ranks
from torch import Tensor, nn
from torch.nn import functional as F

import sslkern
from sslkern.bench import peers
from sslkern.bench.peers import UnavailableError

SPLIT = [3, 0, 4]


def _rows(count: int, seed: int, dims: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=g, dtype=torch.float64)


def _own(group: dist.ProcessGroup, x: Tensor, split: list[int]) -> Tensor:
    return x.split(split)[dist.get_rank(group)]


# ---- a memory bank is the same on all ranks


def _bank_steps(
    make: Any, group: dist.ProcessGroup | None, split: list[int]
) -> tuple[list[float], dict[str, Tensor]]:
    sharing = {} if group is None else {"gather_distributed": True, "process_group": group}
    module = make(sslkern.losses.NTXentLoss, temperature=0.3, **sharing)
    losses = []
    for step in range(4):
        z_a, z_b = _rows(sum(split), step), _rows(sum(split), step + 10)
        if group is not None:
            z_a, z_b = _own(group, z_a, split), _own(group, z_b, split)
        losses.append(module(z_a.requires_grad_(), z_b).item())
    return losses, module.state_dict()


def _with_length(cls: type[nn.Module], **options: Any) -> nn.Module:
    return cls(memory_bank_size=(16, 4), **options).double()


def _without_length(cls: type[nn.Module], **options: Any) -> nn.Module:
    return cls(memory_bank_size=16, **options)


def _bank_of_rank(group: dist.ProcessGroup, make: Any) -> Any:
    torch.manual_seed(0)  # of the first content
    return _bank_steps(make, group, SPLIT)


@pytest.mark.parametrize("make", [_with_length, _without_length])
def test_memory_bank_takes_the_rows_of_all(ranks: Ranks, make: Any) -> None:
    torch.manual_seed(0)
    losses, state = _bank_steps(make, None, SPLIT)
    for got, bank in ranks.run(len(SPLIT), _bank_of_rank, make):
        torch.testing.assert_close(got, losses, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(bank, state, rtol=1e-10, atol=1e-10)


def _copied(group: dist.ProcessGroup) -> tuple[float, float]:
    """A model with a loss in it, and its copy, whose bank is its own."""
    loss = sslkern.losses.NTXentLoss(
        memory_bank_size=(16, 4), gather_distributed=True, process_group=group
    )
    model = nn.ModuleDict({"loss": loss})
    other = copy.deepcopy(model)["loss"]
    assert other.process_group is group
    assert other.queue.rows is not loss.queue.rows
    z = _rows(3, dist.get_rank(group)).float()
    return loss(z, z).item(), other(z, z).item()


def test_copies_are_of_the_same_ranks(ranks: Ranks) -> None:
    for first, second in ranks.run(2, _copied):
        assert first == second


# ---- the normaliser of the first batch


def _nce(group: dist.ProcessGroup | None, split: list[int]) -> tuple[list[float], float]:
    sharing = {} if group is None else {"gather_distributed": True, "process_group": group}
    module = sslkern.losses.SampledNCELoss(0.5, **sharing)
    g = torch.Generator().manual_seed(3)
    table = _rows(9, 1)
    losses = []
    for step in range(2):
        query = _rows(sum(split), step)
        positive = torch.randint(9, (sum(split),), generator=g)
        negative = torch.randint(9, (sum(split), 3), generator=g)
        rows = [query, positive, negative]
        if group is not None:
            rows = [_own(group, x, split) for x in rows]
        losses.append(module(rows[0], table, rows[1], rows[2]).item())
    return losses, module.log_normalizer.item()


def _nce_of_rank(group: dist.ProcessGroup) -> Any:
    return _nce(group, SPLIT)


def test_normalizer_is_estimated_from_all_ranks(ranks: Ranks) -> None:
    losses, log_z = _nce(None, SPLIT)
    for got, estimated in ranks.run(len(SPLIT), _nce_of_rank):
        torch.testing.assert_close(got, losses, rtol=1e-10, atol=1e-10)
        assert estimated == pytest.approx(log_z, rel=1e-12)


# ---- TiCo's covariance moves alike


def _tico(group: dist.ProcessGroup | None, split: list[int]) -> tuple[list[float], Tensor]:
    sharing = {} if group is None else {"gather_distributed": True, "process_group": group}
    module = sslkern.losses.TiCoLoss(**sharing)
    losses = []
    for step in range(3):
        views = [_rows(sum(split), step), _rows(sum(split), step + 10)]
        if group is not None:
            views = [_own(group, z, split) for z in views]
        losses.append(module(*views).item())
    return losses, module.state.covariance


def _tico_of_rank(group: dist.ProcessGroup) -> Any:
    return _tico(group, SPLIT)


def test_covariance_is_that_of_all_rows(ranks: Ranks) -> None:
    losses, covariance = _tico(None, SPLIT)
    found = ranks.run(len(SPLIT), _tico_of_rank)
    for got, matrix in found:
        torch.testing.assert_close(got, losses, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(matrix, covariance, rtol=1e-10, atol=1e-10)
        assert torch.equal(matrix, found[0][1])


# ---- open_clip's own classes, in as many processes


def _open_clip_of_rank(group: dist.ProcessGroup, name: str, options: Any, ours: bool) -> Any:
    peer: Any = peers.load_peer_file("open_clip_torch", "open_clip/loss.py")
    cls = getattr(sslkern.losses if ours else peer, name)
    module = cls(rank=dist.get_rank(), world_size=dist.get_world_size(), **options)
    rows = 2 * MOST
    image, text = (
        _own(group, F.normalize(_rows(rows, seed)), [2] * MOST).clone().requires_grad_()
        for seed in (0, 1)
    )
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64) if name == "SigLipLoss" else None
    loss = module(image, text, scale, bias)
    loss.backward()
    return loss.detach(), image.grad, text.grad, scale.grad


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ClipLoss", {"gather_with_grad": True}),
        ("ClipLoss", {"gather_with_grad": True, "local_loss": True}),
        *[("SigLipLoss", {"dist_impl": how}) for how in ("bidir", "shift", "reduce", "gather")],
    ],
    ids=str,
)
def test_equals_open_clip(ranks: Ranks, name: str, options: dict[str, Any]) -> None:
    try:
        peers.load_peer_file("open_clip_torch", "open_clip/loss.py")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    theirs = ranks.run(MOST, _open_clip_of_rank, name, options, False)
    ours = ranks.run(MOST, _open_clip_of_rank, name, options, True)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got[:3], expected[:3], rtol=1e-9, atol=1e-9)
    # A rank's part of a parameter's gradient may differ, but not the mean that the ranks take.
    got, expected = (sum(found[3] for found in ranks_found) for ranks_found in (ours, theirs))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def _uneven_of_rank(group: dist.ProcessGroup, name: str, split: list[int], options: Any) -> Any:
    module = getattr(sslkern.losses, name)(
        rank=dist.get_rank(), world_size=dist.get_world_size(), **options
    )
    image, text = (_own(group, _rows(sum(split), seed), split).clone() for seed in (0, 1))
    loss = module(image.requires_grad_(), text, torch.tensor(0.5))
    loss.backward()
    return loss.detach(), image.grad


@pytest.mark.parametrize("split", [[1, 3, 2, 2], [3, 0, 4, 1]], ids=str)
@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("ClipLoss", "clip_loss", {"gather_with_grad": True, "local_loss": True}),
        ("SigLipLoss", "siglip_loss", {}),
    ],
    ids=str,
)
def test_uneven_processes_have_their_shares_of_the_mean(
    ranks: Ranks, name: str, function: str, options: Any, split: list[int]
) -> None:
    image, text = (_rows(sum(split), seed) for seed in (0, 1))
    expected = getattr(sslkern, function)(image.requires_grad_(), text, 0.5)
    (grad,) = torch.autograd.grad(expected, image)
    found = ranks.run(MOST, _uneven_of_rank, name, split, options)
    mean = torch.stack([loss for loss, _ in found]).mean()
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-10, atol=1e-10)
    got = torch.cat([rows for _, rows in found]) / MOST
    torch.testing.assert_close(got, grad, rtol=1e-9, atol=1e-10)


def _other_processes(group: dist.ProcessGroup) -> None:
    module = sslkern.losses.SigLipLoss(rank=0, world_size=2)
    module(torch.eye(2), torch.eye(2), 2.0)


def test_processes_must_be_those_of_torch(ranks: Ranks) -> None:
    for text in ranks.errors(2, _other_processes).values():
        assert "rank and world_size to be those of torch.distributed" in text


# ---- rows of all ranks for a queue


def _all_rows(group: dist.ProcessGroup, x: Tensor) -> Tensor:
    own = x.split(SPLIT)[dist.get_rank(group)]
    return sslkern.parallel.all_rows(own.requires_grad_(own.is_floating_point()), group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_all_rows_are_gathered_without_a_gradient(ranks: Ranks, dtype: torch.dtype) -> None:
    x = torch.arange(7 * 3 * 2).reshape(7, 3, 2).to(dtype)
    for found in ranks.run(len(SPLIT), _all_rows, x):
        assert torch.equal(found, x)
        assert not found.requires_grad


def test_all_rows_refuse_what_has_none() -> None:
    with pytest.raises(ValueError, match=r"sslkern::all_rows: expected x to be of shape \(N, "):
        sslkern.parallel.all_rows(torch.tensor(1.0))
