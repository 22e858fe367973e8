"""ReSSL beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import ReSSL

QUEUE, BATCH = 14, 6  # the third batch goes round the end of the queue


def make(**options: Any) -> ReSSL:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, "queue_size": QUEUE, "momentum": 0.9}
    return ReSSL(small_encoder(), 12, **{**settings, **options}).double()


def plain_loss(m: ReSSL, view_strong: Tensor, view_weak: Tensor) -> Tensor:
    query = unit(m.head(m.encoder(view_strong)))
    with torch.no_grad():
        key = unit(m.teacher.module(view_weak))
    earlier = unit(m.queue.rows)
    target = (key @ earlier.T / 0.04).softmax(1)
    loss = -(target * (query @ earlier.T / 0.1).log_softmax(1)).sum(1).mean()
    for row in key:
        m.queue.rows[int(m.queue.position)] = row
        m.queue.position.copy_((m.queue.position + 1) % QUEUE)
    return loss


def plain_update(m: ReSSL, progress: float) -> None:
    follow(m.teacher.module, nn.Sequential(m.encoder, m.head), 0.9)


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(batch=BATCH), plain_update)


def test_equal_rows_in_the_queue_leave_the_log_of_its_size() -> None:
    """All relations are the same then, whatever the views are."""
    model = make()
    model.queue.rows.copy_(model.queue.rows[:1].expand(QUEUE, -1).clone())
    loss = model(*image_batches()[0])
    torch.testing.assert_close(loss.item(), math.log(QUEUE), rtol=1e-12, atol=0)


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.queue.rows.clone()
    model(*image_batches()[0])
    assert torch.equal(model.queue.rows, before)
    assert int(model.queue.position) == 0


def test_teacher_gets_no_gradient() -> None:
    model = make()
    view_strong, view_weak = image_batches()[0]
    model(view_strong, view_weak.requires_grad_()).backward()
    assert view_weak.grad is None
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"hidden_dim": 0}, "ReSSL: expected hidden_dim to be positive, got 0"),
        ({"momentum": 1.5}, r"expected momentum to be from 0 to 1, got 1\.5"),
        ({"student_temperature": 0.0}, "ReSSL: expected student_temperature to be positive"),
        ({"teacher_temperature": -1.0}, "ReSSL: expected teacher_temperature to be positive"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_single_sample_is_refused_where_a_norm_needs_two() -> None:
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"ReSSL: .* at least 2 samples, which batch normalization"
    ):
        make()(view, view)
