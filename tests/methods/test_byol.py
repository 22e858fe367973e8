"""BYOL beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes, check_targets_are_given, rising_teacher
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import BYOL


def make(**options: Any) -> BYOL:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, "momentum": 0.9, **options}
    return BYOL(small_encoder(), 12, **settings).double()


def plain_loss(m: BYOL, view_a: Tensor, view_b: Tensor) -> Tensor:
    with torch.no_grad():
        target_a, target_b = (unit(m.teacher.module(view)) for view in (view_a, view_b))
    p_a, p_b = (unit(m.predictor(z)) for z in [m.head(m.encoder(v)) for v in (view_a, view_b)])
    # The squared distance of unit rows is 2 - 2 cos.
    return ((p_a - target_b) ** 2).sum(1).mean() + ((p_b - target_a) ** 2).sum(1).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(), rising_teacher(0.9))


def test_targets_take_no_gradient() -> None:
    model = make()
    assert not any(p.requires_grad for p in model.teacher.parameters())
    check_targets_are_given(model)


def test_gradient_reaches_encoder_and_head_through_the_predictor() -> None:
    model = make()
    model(*image_batches()[0]).backward()
    assert all(bool(p.grad.any()) for p in model.encoder.parameters())
    assert all(bool(p.grad.any()) for p in model.head.parameters())


def test_student_that_predicts_its_teacher_has_no_loss() -> None:
    model = make().eval()
    model.predictor = torch.nn.Identity()
    view = image_batches()[0][0]
    assert model(view, view).item() == pytest.approx(0, abs=1e-12)


def test_update_without_progress_has_the_first_momentum() -> None:
    model = make(momentum=0.75)
    before = model.teacher.module[0][1].bias.clone()
    with torch.no_grad():
        model.encoder[1].bias.copy_(before + 4)
    model.update()
    torch.testing.assert_close(model.teacher.module[0][1].bias, before + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
        ({"projection_dim": -1}, "expected dims to be positive, got -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
