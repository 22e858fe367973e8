"""TiCo beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes, rising_teacher
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import TiCo


def make(**options: Any) -> TiCo:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, "momentum": 0.9, **options}
    return TiCo(small_encoder(), 12, **settings).double()


def plain_loss(m: TiCo, view_a: Tensor, view_b: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(view_a)))
    with torch.no_grad():
        target = unit(m.teacher.module(view_b))
        seen = torch.stack([torch.outer(row, row) for row in z]).mean(0)
        m.state.covariance.mul_(m.beta).add_(seen, alpha=1 - m.beta)
    contrast = torch.einsum("ni,ij,nj->n", z, m.state.covariance.clone(), z)
    return (1 - (z * target).sum(1) + m.rho * contrast).mean()


@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "rho": 2.0}])
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches(), rising_teacher(0.9))


def bare(dim: int = 4) -> TiCo:
    """The loss of the inputs themselves."""
    model = TiCo(nn.Identity(), dim, projection_dim=dim)
    model.head = model.teacher.module = nn.Identity()
    return model.double()


def test_first_loss_of_collapsed_and_of_orthogonal_rows() -> None:
    equal, apart = torch.zeros(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    equal[:, 0] = 3
    assert bare()(equal, equal).item() == pytest.approx(8 * 0.1, rel=1e-12)
    assert bare()(apart, apart).item() == pytest.approx(8 * 0.1 / 4, rel=1e-12)


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    model(*image_batches()[0])
    assert not bool(model.state.covariance.any())
    model.train()(*image_batches()[0])
    assert model.state.covariance.trace().item() == pytest.approx(0.1, rel=1e-12)


def test_teacher_takes_no_gradient() -> None:
    model = make()
    model(*image_batches()[0]).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, r"expected beta to be in \[0, 1\), got 1.0"),
        ({"rho": -1.0}, "expected rho to be .* not negative"),
        ({"momentum": -0.1}, "expected momentum to be from 0 to 1"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
