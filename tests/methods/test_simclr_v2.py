"""SimCLR v2 beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import SimCLRv2


def make(**options: Any) -> SimCLRv2:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 5, "temperature": 0.3, **options}
    return SimCLRv2(small_encoder(), 12, **settings).double()


def plain_loss(m: SimCLRv2, view_a: Tensor, view_b: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat([view_a, view_b]))))
    logits = (z @ z.T / m.temperature).fill_diagonal_(-torch.inf)
    n = len(view_a)
    positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
    return (logits.logsumexp(1) - positive).mean()


@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
def test_steps_equal_the_formula(hidden_layers: int) -> None:
    check_steps(make(hidden_layers=hidden_layers), plain_loss, image_batches())


def test_head_has_the_layers() -> None:
    linear = [layer for layer in make().head if isinstance(layer, nn.Linear)]
    assert [(x.in_features, x.out_features) for x in linear] == [(12, 7), (7, 7), (7, 5)]
    assert isinstance(make().head[-1], nn.Linear)


def test_trunk_shares_the_first_layers() -> None:
    model = make().eval()
    images = image_batches()[0][0]
    h = model.encoder(images)
    assert torch.equal(model.trunk(0)(images), h)
    norm = model.head[1]
    first = model.head[0].weight @ h.T
    scaled = (first.T - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = (scaled * norm.weight + norm.bias).clamp_min(0)
    torch.testing.assert_close(model.trunk()(images), expected, rtol=1e-12, atol=1e-12)
    assert model.trunk(2)(images).shape == (6, 7)
    assert model.trunk()[1].weight is model.head[0].weight


@pytest.mark.parametrize("layers", [-1, 3])
def test_trunk_of_layers_that_are_not_there_is_refused(layers: int) -> None:
    with pytest.raises(
        ValueError, match=f"SimCLRv2: expected layers to be from 0 to 2, .* {layers}"
    ):
        make().trunk(layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "SimCLRv2: expected temperature to be positive"),
        ({"hidden_layers": 0}, "SimCLRv2: expected hidden_layers to be positive, got 0"),
        ({"hidden_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    view_a, view_b = image_batches()[0]
    with pytest.raises(ValueError, match="SimCLRv2: expected view 2 to be of the shape of view 1"):
        make()(view_a, view_b[1:])
