"""Rotation beside its formula."""

from __future__ import annotations

import math

import pytest
import torch
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import Rotation


def make() -> Rotation:
    torch.manual_seed(0)
    return Rotation(small_encoder(), 12).double()


def turn(image: Tensor) -> Tensor:
    """By 90 degrees counterclockwise: the last column becomes the first row."""
    return torch.stack([image[:, :, c] for c in reversed(range(image.shape[2]))], 1)


def plain_loss(m: Rotation, images: Tensor) -> Tensor:
    turned = [list(images)]
    for _ in range(3):
        turned.append([turn(image) for image in turned[-1]])
    rows = torch.cat([torch.stack(copies) for copies in turned])
    logits = m.head(m.encoder(rows)).view(4, len(images), 4)
    shares = logits.exp() / logits.exp().sum(2, keepdim=True)
    return -torch.stack([shares[k, :, k].log() for k in range(4)]).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(views=1))


def test_equal_scores_cost_the_logarithm_of_four() -> None:
    model = make()
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert model(*image_batches(views=1)[0]).item() == pytest.approx(math.log(4), rel=1e-12)


def test_accuracy_is_one_where_the_corner_tells_the_rotation() -> None:
    model = Rotation(nn.Flatten(), 4)
    with torch.no_grad():
        # A corner at the right below goes up, then left, then down.
        model.head.weight.copy_(torch.eye(4)[[3, 1, 0, 2]])
        model.head.bias.zero_()
    images = torch.zeros(3, 1, 2, 2)
    images[:, :, 1, 1] = 1.0
    assert model.accuracy(images).item() == 1.0
    images[:, :, 1, 1], images[:, :, 0, 0] = 0.0, 1.0
    assert model.accuracy(images).item() == 0.0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Rotation: expected images .* \(B, C, S, S\), got shape"):
        make()(torch.rand(5, 1, 4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected encoder .* \(8, 5\), got \(8, 4\)"):
        Rotation(nn.Flatten(), 5)(torch.rand(2, 1, 2, 2))


def test_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match="Rotation: expected feature_dim to be positive, got 0"):
        Rotation(nn.Flatten(), 0)
