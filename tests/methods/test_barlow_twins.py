"""Barlow Twins beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import BarlowTwins


def make(**options: Any) -> BarlowTwins:
    torch.manual_seed(0)
    return BarlowTwins(small_encoder(), 12, **{"projection_dim": 9, **options}).double()


def standardized(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()


def plain_loss(m: BarlowTwins, view_a: Tensor, view_b: Tensor) -> Tensor:
    a, b = (standardized(m.head(m.encoder(view))) for view in (view_a, view_b))
    c = a.T @ b / len(a)
    squares = (c - torch.eye(len(c), dtype=c.dtype)) ** 2
    on = squares.diagonal().sum()
    return m.scale * (on + m.lambda_param * (squares.sum() - on))


@pytest.mark.parametrize(
    "options", [{}, {"projection_dim": 4, "hidden_dim": 7, "lambda_param": 0.3, "scale": 0.1}]
)
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    """With more columns than samples, and fewer."""
    check_steps(make(**options), plain_loss, image_batches())


def bare() -> BarlowTwins:
    """The loss of the inputs themselves."""
    model = BarlowTwins(nn.Identity(), 3, projection_dim=3)
    model.head = nn.Identity()
    return model.double()


def test_columns_that_agree_and_are_orthogonal_have_no_loss() -> None:
    z = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert bare()(z, 2 * z + 4).item() == pytest.approx(0, abs=1e-8)
    assert bare()(z, -z).item() == pytest.approx(12, rel=2e-5)


def test_equal_columns_pay_for_each_pair() -> None:
    z = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64)[:, None].expand(4, 3).contiguous()
    assert bare()(z, z).item() == pytest.approx(0.0051 * 3 * 2, rel=1e-4)


def test_head_has_two_hidden_layers_as_wide_as_its_output() -> None:
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in make().head] == [*block, *block, nn.Linear]
    assert [layer.out_features for layer in make().head if isinstance(layer, nn.Linear)] == [9] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
        ({"lambda_param": -1.0}, "BarlowTwins: expected lambda_param to be .* not negative"),
        ({"scale": 0.0}, "BarlowTwins: expected scale to be positive"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
