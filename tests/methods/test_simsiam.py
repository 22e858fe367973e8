"""SimSiam beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes, check_targets_are_given
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import SimSiam


def make(**options: Any) -> SimSiam:
    torch.manual_seed(0)
    return SimSiam(small_encoder(), 12, **{"projection_dim": 8, **options}).double()


def plain_loss(m: SimSiam, view_a: Tensor, view_b: Tensor) -> Tensor:
    z_a, z_b = m.head(m.encoder(view_a)), m.head(m.encoder(view_b))
    p_a, p_b = m.predictor(z_a), m.predictor(z_b)
    ab = (unit(p_a) * unit(z_b.detach())).sum(1)
    ba = (unit(p_b) * unit(z_a.detach())).sum(1)
    return -(ab.mean() + ba.mean()) / 2


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches())


def test_projections_as_targets_take_no_gradient() -> None:
    check_targets_are_given(make())


def test_gradient_reaches_the_encoder_through_the_predictor() -> None:
    model = make()
    model(*image_batches()[0]).backward()
    assert all(bool(p.grad.any()) for p in model.encoder.parameters())


def test_perfect_predictions_have_the_least_loss() -> None:
    model = make().eval()
    model.predictor = nn.Identity()
    view = image_batches()[0][0]
    assert model(view, view).item() == pytest.approx(-1, abs=1e-12)


def test_heads_are_those_of_the_paper() -> None:
    model = make()
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in model.head] == [*block, *block, *block[:2]]
    assert [norm.affine for norm in (model.head[1], model.head[-1])] == [True, False]
    assert [type(layer) for layer in model.predictor] == [*block, nn.Linear]
    assert model.predictor[0].out_features == 2  # a quarter
    assert make(hidden_dim=3).predictor[0].out_features == 3


@pytest.mark.parametrize("options", [{"projection_dim": 0}, {"hidden_dim": 0}])
def test_widths_must_be_positive(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected dims to be positive, got 0"):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
