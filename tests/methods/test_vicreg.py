"""VICReg beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import VICReg


def make(**options: Any) -> VICReg:
    torch.manual_seed(0)
    return VICReg(small_encoder(), 12, **{"projection_dim": 9, **options}).double()


def plain_loss(m: VICReg, view_a: Tensor, view_b: Tensor) -> Tensor:
    views = [m.head(m.encoder(view)) for view in (view_a, view_b)]
    invariance = ((views[0] - views[1]) ** 2).mean()
    variance = sum((1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for z in views)
    covariance = sum(squared_covariances(z, m.variant) for z in views)
    if m.variant == "official":
        variance = variance / 2
    lmda, mu, nu = m.weights
    return lmda * invariance + mu * variance + nu * covariance


def squared_covariances(z: Tensor, variant: str) -> Tensor:
    x, dim = z - z.mean(0), z.shape[1]
    if variant == "vibcreg":
        x = x / x.norm(dim=0)
        c, factor = x.T @ x, 1 / dim**2
    else:
        c, factor = x.T @ x / (len(x) - 1), 1 / dim
    return factor * (c**2).masked_fill(torch.eye(dim, dtype=torch.bool), 0).sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"projection_dim": 4, "lambda_param": 2.0, "mu_param": 3.0, "nu_param": 5.0},
        {"variant": "solo"},
        {"variant": "vibcreg", "nu_param": 200.0},
    ],
)
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches())


def bare() -> VICReg:
    """The loss of the inputs themselves."""
    model = VICReg(nn.Identity(), 3, projection_dim=3)
    model.head = nn.Identity()
    return model.double()


def test_collapse_costs_the_variance() -> None:
    z = torch.ones(4, 3, dtype=torch.float64)
    assert bare()(z, z).item() == pytest.approx(25 * (1 - 0.01), rel=1e-12)


def test_orthogonal_columns_that_agree_have_no_loss() -> None:
    z = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert bare()(z, z).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
        ({"lambda_param": -1.0}, "VICReg: expected lambda_param to be .* not negative"),
        ({"mu_param": float("inf")}, "VICReg: expected mu_param to be finite"),
        ({"nu_param": -0.5}, "VICReg: expected nu_param to be"),
        ({"variant": "paper"}, "expected variant to be 'official', 'solo' or 'vibcreg'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
