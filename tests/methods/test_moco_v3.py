"""MoCo v3 beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import MoCoV3


def make(**options: Any) -> MoCoV3:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, "momentum": 0.9, **options}
    return MoCoV3(small_encoder(), 12, **settings).double()


def plain_loss(m: MoCoV3, *views: Tensor) -> Tensor:
    queries = [unit(m.predictor(m.head(m.encoder(view)))) for view in views]
    with torch.no_grad():
        keys = [unit(m.teacher.module(view)) for view in views]
    loss = torch.zeros((), dtype=torch.float64)
    for query, key in zip(queries, reversed(keys), strict=True):
        logits = query @ key.T / m.temperature
        loss = loss + (logits.logsumexp(1) - logits.diagonal()).mean()
    return loss * 2 * m.temperature


def plain_update(m: MoCoV3, progress: float) -> None:
    momentum = 1 - 0.1 * (1 + math.cos(math.pi * progress)) / 2
    follow(m.teacher.module, nn.Sequential(m.encoder, m.head), momentum)


@pytest.mark.parametrize("options", [{}, {"projector_layers": 2, "temperature": 1.0}])
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches(), plain_update)


def test_momentum_ends_at_one() -> None:
    """The teacher stays where it is then."""
    model = make()
    before = [p.clone() for p in model.teacher.parameters()]
    with torch.no_grad():
        for p in model.trainable():
            p.add_(1)
    model.update(1.0)
    assert all(map(torch.equal, before, model.teacher.parameters()))


def test_heads_end_in_norms_without_scale() -> None:
    model = make(projector_layers=2)
    for head in (model.head, model.predictor):
        kinds = [type(layer) for layer in head]
        assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
        assert [norm.affine for norm in (head[1], head[4])] == [True, False]
        assert all(layer.bias is None for layer in (head[0], head[3]))


def test_loss_is_the_same_for_swapped_views() -> None:
    model = make().eval()
    view_a, view_b = image_batches()[0]
    assert model(view_a, view_b).item() == pytest.approx(model(view_b, view_a).item(), rel=1e-12)


def test_keys_get_no_gradient() -> None:
    model = make()
    model(*image_batches()[0]).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "MoCoV3: expected temperature to be positive"),
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"projector_layers": 0}, "MoCoV3: expected projector_layers to be positive, got 0"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"MoCoV3: .* at least 2 samples, which batch norm"):
        make()(view, view)
    with pytest.raises(ValueError, match=r"MoCoV3: expected view 2 .* of view 1"):
        make()(view, torch.cat([view, view]))
