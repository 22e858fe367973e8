"""DCL beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import DCL
from sslkern.methods.dcl import pair_weights


def make(**options: Any) -> DCL:
    torch.manual_seed(0)
    return DCL(small_encoder(), 12, **{"projection_dim": 5, "temperature": 0.3, **options}).double()


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_equal_the_formula(weighted: bool) -> None:
    def loss(m: DCL, view_a: Tensor, view_b: Tensor) -> Tensor:
        z_a, z_b = unit(m.head(m.encoder(torch.cat([view_a, view_b])))).chunk(2)
        rows = plain_rows(z_a, z_b, weighted) + plain_rows(z_b, z_a, weighted)
        return torch.stack(rows).mean()

    check_steps(make(weighted=weighted), loss, image_batches())


def plain_rows(z_a: Tensor, z_b: Tensor, weighted: bool) -> list[Tensor]:
    """Losses of the first view's rows, one at a time."""
    n, pairs = len(z_a), [a @ b for a, b in zip(z_a, z_b, strict=True)]
    share = [math.exp(pair.item() / 0.5) for pair in pairs]
    rows = []
    for i, pair in enumerate(pairs):
        negatives = [z[j] for z in (z_a, z_b) for j in range(n) if j != i]
        weight = 2 - n * share[i] / sum(share) if weighted else 1
        denominator = (torch.stack(negatives) @ z_a[i] / 0.3).exp().sum()
        rows.append(denominator.log() - weight * pair / 0.3)
    return rows


def test_equal_projections_leave_the_log_of_the_number_of_negatives() -> None:
    model = make().eval()
    view = image_batches(batch=1)[0][0].expand(5, 1, 4, 4)
    assert model(view, view).item() == pytest.approx(math.log(2 * 5 - 2), rel=1e-12)


def test_weights_have_mean_one_and_are_larger_for_pairs_less_alike() -> None:
    a = torch.eye(4, dtype=torch.float64, requires_grad=True)
    weights = pair_weights(a, a[[0, 2, 3, 1]], 0.5)
    assert weights.mean().item() == pytest.approx(1, rel=1e-12)
    assert weights[0] < weights[1]
    assert not weights.requires_grad


@pytest.mark.parametrize("name", ["temperature", "sigma"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"DCL: expected {name} to be positive"):
        make(**{name: 0.0})


def test_views_that_do_not_fit_are_refused() -> None:
    view_a, view_b = image_batches()[0]
    with pytest.raises(ValueError, match="DCL: expected view 2 to be of the shape of view 1"):
        make()(view_a, view_b[1:])


def test_single_sample_has_no_negatives() -> None:
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="DCL: expected view 1 to be of at least 2 samples, got"):
        make()(view, view)
