"""MMCR beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from projected import check_shapes
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import MMCR


def make(**options: Any) -> MMCR:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, **options}
    return MMCR(small_encoder(), 12, **settings).double()


def nuclear(x: Tensor) -> Tensor:
    """The sum of singular values: of the roots of the eigenvalues of the smaller product."""
    product = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(product).sqrt().sum()


def plain_loss(m: MMCR, *views: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat(views)))).view(len(views), len(views[0]), -1)
    of_views = torch.stack([nuclear(z[:, i]) for i in range(len(views[0]))])
    return m.lmda * of_views.mean() - nuclear(z.mean(0))


@pytest.mark.parametrize(("views", "lmda"), [(2, 0.0), (3, 0.0), (3, 0.5)])
def test_steps_equal_the_formula(views: int, lmda: float) -> None:
    check_steps(make(lmda=lmda), plain_loss, image_batches(views))


def bare(dim: int = 8) -> MMCR:
    """The loss of the inputs themselves."""
    model = MMCR(nn.Identity(), dim, hidden_dim=2, projection_dim=dim)
    model.head = nn.Identity()
    return model.double()


def test_loss_of_rows_in_all_directions_and_in_one() -> None:
    apart, equal = torch.eye(8, dtype=torch.float64), torch.ones(16, 8, dtype=torch.float64)
    assert bare()(apart, 2 * apart).item() == pytest.approx(-8, rel=1e-12)
    assert bare()(equal, equal, equal).item() == pytest.approx(-4, rel=1e-12)
    frame = torch.cat([apart, apart])
    assert bare()(frame, frame).item() == pytest.approx(-math.sqrt(16 * 8), rel=1e-12)


def test_views_that_cancel_have_no_centroid() -> None:
    z = torch.eye(8, dtype=torch.float64)
    assert bare()(z, -z).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmda": -1.0}, "MMCR: expected lmda to be .* not negative"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="MMCR: expected views to be at least two, got 1"):
        make()(torch.rand(2, 1, 4, 4, dtype=torch.float64))
    check_shapes(make(), views=3)
