"""DINO beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import DINO, DINOHead

SIZES = {"out_dim": 7, "hidden_dim": 8, "bottleneck_dim": 5}


class PooledEncoder(nn.Module):
    """Images (B, 1, H, W) of any size -> (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small_encoder()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(nn.functional.adaptive_avg_pool2d(images, 4))


def make(**options: Any) -> DINO:
    torch.manual_seed(0)
    settings = {"momentum": 0.9, "head_norm": "batch", **SIZES, **options}
    return DINO(PooledEncoder(), 12, **settings).double()


def crop_batches() -> list[Batch]:
    """Two crops of 4 x 4 and one of 3 x 3."""
    small = [tuple(x[..., :3, :3] for x in batch) for batch in image_batches(views=1)]
    return [(*a, *b) for a, b in zip(image_batches(), small, strict=True)]


def plain_head(head: DINOHead, features: Tensor) -> Tensor:
    return unit(head.mlp(features)) @ unit(head.last.weight).T


def plain_loss(m: DINO, *crops: Tensor) -> Tensor:
    features = torch.cat([m.encoder(torch.cat(crops[:2])), m.encoder(crops[2])])
    student = plain_head(m.head, features).chunk(3)
    with torch.no_grad():
        encoder, head = m.teacher.module
        teacher = plain_head(head, encoder(torch.cat(crops[:2])))
    target = ((teacher - m.targets.center.value) / m.targets.temperature).softmax(1).chunk(2)
    prediction = [(s / 0.1).log_softmax(1) for s in student]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    losses = [-(target[t] * prediction[s]).sum(1).mean() for t, s in pairs]
    m.targets.center.value.copy_(0.9 * m.targets.center.value + 0.1 * teacher.mean(0))
    return sum(losses) / 4


def plain_update(m: DINO, progress: float) -> None:
    momentum = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    student = [*m.encoder.parameters(), *m.head.parameters()]
    for to, value in zip(m.teacher.module.parameters(), student, strict=True):
        to.mul_(momentum).add_(value, alpha=1 - momentum)
    m.targets.temperature.fill_(0.04 + 0.03 * min(1.0, progress / 0.5))


def test_steps_equal_the_formula() -> None:
    """With the teacher's temperature from 0.04 to 0.07 in the first half."""
    model = make(first_temperature=0.04, teacher_temperature=0.07, warmup=0.5)
    check_steps(model, plain_loss, crop_batches(), plain_update)


def test_teacher_temperature_follows_a_line() -> None:
    """Of the paper's 30 epochs: linspace(0.04, 0.07, 30) at epoch 15."""
    model = make(first_temperature=0.04, teacher_temperature=0.07, warmup=0.3)
    model.update(0.3 * 15 / 29)
    assert float(model.targets.temperature) == pytest.approx(0.0555172, abs=1e-7)


def test_equal_scores_cost_the_logarithm_of_their_number() -> None:
    model = make()
    with torch.no_grad():
        for head in (model.head, model.teacher.module[1]):
            head.last.weight[:] = head.last.weight[0].clone()
    loss = model(*crop_batches()[0])
    torch.testing.assert_close(loss, torch.tensor(7.0).double().log())


def test_no_gradient_reaches_the_teacher() -> None:
    model = make()
    model(*crop_batches()[0]).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


def test_first_backward_passes_leave_the_last_layer() -> None:
    model = make(freeze_iterations=2)
    frozen = []
    for batch in crop_batches():
        model.zero_grad()
        model(*batch).backward()
        frozen.append(model.head.last.weight.grad is None)
        assert model.head.mlp[0].weight.grad is not None
    assert frozen == [True, True, False]


def test_head_does_not_see_the_length_of_its_last_weights() -> None:
    torch.manual_seed(0)
    head = DINOHead(12, 7, hidden_dim=8, bottleneck_dim=5).double()
    features = torch.randn(3, 4, 12, dtype=torch.float64)
    before = head(features)
    assert before.shape == (3, 4, 7)
    with torch.no_grad():
        head.last.weight.mul_(3)
    torch.testing.assert_close(head(features), before)
    torch.testing.assert_close(head.last.weight.norm(dim=1), torch.full((7,), 3.0).double())


def test_head_is_a_perceptron_of_three_layers() -> None:
    layers = [type(layer) for layer in DINOHead(12, 7, hidden_dim=8).mlp]
    assert layers == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    model(*crop_batches()[0])
    assert not model.targets.center.value.any()


def test_autocast_trains() -> None:
    model = make().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(*(crop.float() for crop in crop_batches()[0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_temperature": 0.0}, "DINO: expected student_temperature to be positive"),
        ({"teacher_temperature": -1.0}, "DINO: expected teacher_temperature to be positive"),
        ({"first_temperature": 0.0}, "DINO: expected first_temperature to be positive"),
        ({"warmup": 1.5}, "DINO: expected warmup to be from 0 to 1, got 1.5"),
        ({"center_momentum": -0.1}, "DINO: expected center_momentum to be from 0 to 1"),
        ({"momentum": 1.1}, "expected momentum to be from 0 to 1, got 1.1"),
        ({"large_crops": 0}, "DINO: expected large_crops to be positive, got 0"),
        ({"out_dim": 0}, "expected count to be positive, got 0"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_crops_that_do_not_fit_are_refused() -> None:
    model, view = make(), torch.rand(6, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="DINO: expected crops to be at least 2, got 1"):
        model(view)
    with pytest.raises(ValueError, match="expected crop 2 to be of the batch size of crop 1, 6"):
        model(view, view[:5])
    with pytest.raises(ValueError, match="of at least 2 samples, which batch normalization needs"):
        model(view[:1], view[:1], view[:1, ..., :3])
