"""Joint embedding beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import JointEmbedding


def make(**options: Any) -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding(small_encoder(), 12, **{"projection_dim": 5, **options}).double()


def plain_loss(m: JointEmbedding, view_a: Tensor, view_b: Tensor) -> Tensor:
    x, y = (unit(m.head(m.encoder(view))) for view in (view_a, view_b))
    losses = [
        (m.margin + ((x[i] - y[i]) ** 2).sum() - ((x[i] - y[j]) ** 2).sum()).clamp_min(0)
        for i in range(len(x))
        for j in range(len(x))
        if i != j
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("options", [{}, {"hidden_dim": 7, "margin": 0.1}])
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches())


def bare(margin: float) -> JointEmbedding:
    """The loss of the inputs themselves."""
    model = JointEmbedding(nn.Identity(), 4, margin=margin)
    model.head = nn.Identity()
    return model.double()


def test_loss_of_orthogonal_and_of_collapsed_rows() -> None:
    """Energies of orthogonal rows are 2: a margin up to there costs nothing."""
    apart, equal = torch.eye(4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
    assert bare(2.0)(apart, 3 * apart).item() == pytest.approx(0, abs=1e-12)
    assert bare(2.5)(apart, 3 * apart).item() == pytest.approx(0.5, rel=1e-12)
    assert bare(0.7)(equal, equal).item() == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "JointEmbedding: expected margin to be positive"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
    check_shapes(make().eval())
