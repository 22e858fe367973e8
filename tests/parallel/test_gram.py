"""Barlow Twins and VICReg over processes: where statistics are taken, lost digits, terms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor

import sslkern
from sslkern import reference
from sslkern.reference.cross_correlation import off_diagonal, standardize_columns

SPLITS = ([3, 4], [2, 0, 5])


def _views(rows: int, dims: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, rows, dims, generator=g, dtype=torch.float64)
    return z_a.to(dtype), (z_a + z_b).to(dtype)


def _of_rank(
    group: dist.ProcessGroup, name: str, views: tuple[Tensor, ...], split: list[int], options: Any
) -> tuple[Any, list[Tensor]]:
    """What a rank's rows of the views give, and their gradients."""
    z = [v.split(split)[dist.get_rank(group)].requires_grad_() for v in views]
    found = getattr(sslkern, name)(*z, gather_distributed=True, process_group=group, **options)
    loss = found[0] if isinstance(found, tuple) else found
    loss.backward()
    terms = tuple(found[1]) if isinstance(found, tuple) else ()
    return (loss.detach(), terms), [x.grad for x in z if x.grad is not None]


def _expected(loss: Tensor, views: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return loss.detach(), list(torch.autograd.grad(loss, views))


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("dims", [4, 12])
def test_barlow_twins_with_local_statistics(ranks: Ranks, dims: int, split: list[int]) -> None:
    """Each rank standardizes its own rows; the products are of all."""
    views = _views(sum(split), dims)
    z_a, z_b = ([x.requires_grad_() for x in v.clone().split(split)] for v in views)
    a, b = (torch.cat([standardize_columns(x, 1e-5) for x in z if len(x)]) for z in (z_a, z_b))
    c = a.T @ b / sum(split)
    loss = (c.diagonal() - 1).square().sum() + 0.1 * off_diagonal(c).square().sum()
    expected, grads = _expected(loss, [x for x in (*z_a, *z_b) if len(x)])
    options = {"lambda_param": 0.1, "statistics": "local"}
    found = ranks.run(len(split), _of_rank, "barlow_twins_loss", views, split, options)
    for (value, _), _ in found:
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    of_ranks = [g for i in (0, 1) for _, both in found for g in [both[i]] if len(g)]
    for got, grad in zip(of_ranks, grads, strict=True):
        torch.testing.assert_close(got / len(split), grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_vicreg_with_local_statistics(ranks: Ranks, split: list[int]) -> None:
    """The mean over all rows of what the ranks' own rows give."""
    views = _views(sum(split), 4)
    options = {"statistics": "local", "return_terms": True}
    found = ranks.run(len(split), _of_rank, "vicreg_loss", views, split, options)
    parts = [tuple(v.split(split)[i] for v in views) for i, n in enumerate(split) if n]
    losses = [reference.vicreg_loss(*part, return_terms=True) for part in parts]
    weights = [len(part[0]) / sum(split) for part in parts]
    expected = sum(w * loss for w, (loss, _) in zip(weights, losses, strict=True))
    terms = [sum(w * t[i] for w, (_, t) in zip(weights, losses, strict=True)) for i in range(3)]
    for (value, got), _ in found:
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(list(got), terms, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["barlow_twins_loss", "vicreg_loss"])
def test_terms_are_those_of_all_rows(ranks: Ranks, name: str) -> None:
    views, split = _views(7, 4), [3, 4]
    expected, terms = getattr(reference, name)(*views, return_terms=True)
    for (value, got), _ in ranks.run(2, _of_rank, name, views, split, {"return_terms": True}):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(list(got), list(terms), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [30.0, 3000.0])
def test_keeps_digits_where_the_sums_nearly_cancel(ranks: Ranks, size: float) -> None:
    """Products of rows in float32: what one column weighs would hide the others."""
    z, _ = _views(20, 60, torch.float32)
    z[:, 0] *= size
    wide = z.double().requires_grad_()
    expected, (grad,) = _expected(reference.covariance_loss(wide), [wide])
    split = [9, 11]
    found = ranks.run(2, _of_rank, "covariance_loss", (z,), split, {})
    for (value, _), _ in found:
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    got = torch.cat([grads[0] for _, grads in found]).double() / len(split)
    assert (got - grad).norm() <= 1e-5 * grad.norm()


def _error(group: dist.ProcessGroup, rows: int, options: Any) -> None:
    z = torch.ones(rows if dist.get_rank(group) == 0 else 0, 3)
    sslkern.vicreg_loss(z, z, gather_distributed=True, process_group=group, **options)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (1, {}, "z_a to be of at least 2 rows on all ranks together, got 1"),
        (1, {"statistics": "local"}, "z_a to be of no row or at least two on each rank"),
        (4, {"statistics": "mine"}, "statistics to be 'global' or 'local', got 'mine'"),
    ],
    ids=str,
)
def test_wrong_arguments_raise(ranks: Ranks, rows: int, options: Any, message: str) -> None:
    for text in ranks.errors(2, _error, rows, options).values():
        assert message in text


def test_local_statistics_need_ranks() -> None:
    z = torch.eye(4)
    for loss in (sslkern.vicreg_loss, sslkern.barlow_twins_loss):
        with pytest.raises(ValueError, match="statistics to be 'global' without gather_distr"):
            loss(z, z, statistics="local")
