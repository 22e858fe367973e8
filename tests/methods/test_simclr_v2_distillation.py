"""SimCLR v2's distillation beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import SimCLRDistillation

CLASSES = 4


def make(teacher: nn.Module | None = None, **options: Any) -> SimCLRDistillation:
    torch.manual_seed(0)
    teacher = teacher or nn.Sequential(small_encoder(5), nn.Linear(5, CLASSES))
    settings = {"classes": CLASSES, "temperature": 0.7, **options}
    return SimCLRDistillation(small_encoder(), 12, teacher, **settings).double()


def plain_loss(m: SimCLRDistillation, view: Tensor) -> Tensor:
    with torch.no_grad():
        target = (m.teacher.eval()(view) / m.temperature).softmax(1)
    log_p = (m.classifier(m.encoder(view)) / m.temperature).log_softmax(1)
    return -(target * log_p).sum(1).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(views=1))


def test_student_that_says_the_same_has_the_entropy_as_loss_and_no_gradient() -> None:
    model = make(teacher=nn.Sequential(small_encoder(12), nn.Linear(12, CLASSES)))
    model.teacher[0].load_state_dict(model.encoder.state_dict())
    model.teacher[1].load_state_dict(model.classifier.state_dict())
    model.eval()
    (view,) = image_batches(views=1)[0]
    p = (model.logits(view) / 0.7).softmax(1)
    loss = model(view)
    torch.testing.assert_close(loss, -(p * p.log()).sum(1).mean(), rtol=1e-12, atol=0)
    loss.backward()
    assert all(float(q.grad.abs().max()) < 1e-12 for q in model.trainable() if q.grad is not None)


def test_teacher_is_a_frozen_copy_in_evaluation_mode() -> None:
    teacher = nn.Sequential(small_encoder(5), nn.Linear(5, CLASSES).double())
    model = make(teacher=teacher).train()
    assert not any(module.training for module in model.teacher.modules())
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    before = [value.clone() for value in model.teacher.state_dict().values()]
    model(*image_batches(views=1)[0]).backward()
    assert all(map(torch.equal, before, model.teacher.state_dict().values()))
    assert all(p.grad is None for p in model.teacher.parameters())
    assert len(model.trainable()) == len([*model.encoder.parameters()]) + 2


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="SimCLRDistillation: expected classes to be positive"):
        make(classes=0)
    with pytest.raises(ValueError, match="SimCLRDistillation: expected temperature to be positive"):
        make(temperature=-1.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    (view,) = image_batches(views=1)[0]
    with pytest.raises(ValueError, match=r"expected teacher .* \(6, 3\), got \(6, 4\)"):
        make(classes=3)(view)
    with pytest.raises(ValueError, match=r"SimCLRDistillation: .* at least 2 samples"):
        make()(view[:1])
