"""W-MSE beside its formula."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import WMSE

BATCH, SIZE, DIM = 12, 6, 3


def make(**options: Any) -> WMSE:
    torch.manual_seed(0)
    settings = {"hidden_dim": 8, "projection_dim": DIM, "w_size": SIZE, **options}
    return WMSE(small_encoder(), 12, **settings).double()


def whitened(z: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(torch.cov(z.T))
    return (z - z.mean(0)) @ torch.linalg.inv(factor).T


def plain_loss(m: WMSE, *views: Tensor) -> Tensor:
    z = m.head(torch.cat([m.encoder(view) for view in views])).split(BATCH)
    errors = []
    for a, b in combinations(z, 2):
        whole = m.w_size == BATCH
        orders = (
            [torch.arange(BATCH)] if whole else [torch.randperm(BATCH) for _ in range(m.w_iter)]
        )
        for part in torch.cat(orders).split(m.w_size):
            rows_a, rows_b = unit(whitened(a[part])), unit(whitened(b[part]))
            errors.append(((rows_a - rows_b) ** 2).sum(1).mean())
    return sum(errors) / len(errors)


@pytest.mark.parametrize(
    ("options", "views"),
    [({}, 2), ({"w_iter": 2}, 2), ({"w_size": BATCH}, 2), ({"w_size": BATCH}, 3), ({}, 3)],
)
def test_steps_equal_the_formula(options: dict[str, Any], views: int) -> None:
    check_steps(make(**options), plain_loss, image_batches(views, BATCH))


def bare(dim: int = DIM) -> WMSE:
    """The loss of the inputs themselves."""
    model = WMSE(nn.Identity(), dim, projection_dim=dim, w_size=BATCH)
    model.head = nn.Identity()
    return model.double()


def test_loss_does_not_see_shift_and_triangular_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, BATCH, DIM, dtype=torch.float64, generator=generator)
    lower = torch.randn(DIM, DIM, dtype=torch.float64, generator=generator).tril(-1)
    lower += torch.diag(torch.tensor([0.5, 2.0, 3.0]))
    expected = bare()(z_a, z_b)
    torch.testing.assert_close(bare()(z_a @ lower.T + 4, z_b), expected, rtol=1e-9, atol=1e-9)
    assert 0 < expected < 4


def test_views_that_agree_have_no_loss_and_opposite_ones_the_most() -> None:
    z = torch.randn(BATCH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert bare()(z, z, z).item() == pytest.approx(0, abs=1e-12)
    assert bare()(z, -z).item() == pytest.approx(4, rel=1e-12)


def test_gradient_reaches_every_view() -> None:
    views = torch.randn(3, BATCH, DIM, dtype=torch.float64, requires_grad=True)
    bare()(*views).backward()
    assert bool(views.grad.flatten(1).any(1).all())


def test_collapse_is_refused() -> None:
    z = torch.ones(BATCH, DIM, dtype=torch.float64)
    with pytest.raises(ValueError, match="full rank"):
        bare()(z, z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_size": 5}, "WMSE: expected w_size to be at least 2 D = 6, got 5"),
        ({"w_iter": 0}, "expected w_iter to be positive, got 0"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    view = torch.rand(BATCH, 1, 4, 4, dtype=torch.float64)
    model = make()
    with pytest.raises(ValueError, match="WMSE: expected views to be at least two, got 1"):
        model(view)
    with pytest.raises(ValueError, match=r"WMSE: expected view 3 .* of view 1"):
        model(view, view, view[1:])
    with pytest.raises(ValueError, match=r"a batch to be of a multiple of w_size = 6 .* got 11"):
        model(view[1:], view[1:])
    model.encoder = nn.Flatten()
    with pytest.raises(ValueError, match=r"WMSE: expected encoder .* \(12, 12\), got \(12, 16\)"):
        model(view, view)
