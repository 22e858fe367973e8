"""SigLIP beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dual import make_pair_method, pair_batches, plain_rows
from steps import check_steps
from torch import Tensor

from sslkern.methods import SigLIP


def make(**options: Any) -> SigLIP:
    model: SigLIP = make_pair_method(SigLIP, **options)
    return model


def plain_loss(m: SigLIP, images: Tensor, texts: Tensor) -> Tensor:
    x, t = plain_rows(m, images, texts)
    loss = x.new_zeros(())
    for i in range(len(x)):
        for j in range(len(t)):
            logit = m.log_scale.exp() * (x[i] @ t[j]) + m.bias
            loss = loss + (1 + (-logit if i == j else logit).exp()).log()
    return loss / len(x)


@pytest.mark.parametrize("options", [{}, {"scale": 3.0, "bias": -1.0}])
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, pair_batches())


def test_paper_s_start() -> None:
    model = make()
    assert model.log_scale.item() == pytest.approx(math.log(10))
    assert model.bias.item() == -10


def test_loss_of_logits_that_are_all_zero() -> None:
    """With no bias and rows at right angles: log 2 for each of the texts."""
    images, texts = pair_batches()[0]
    model = make(bias=0.0)
    for linear, column in ((model.projection, 0), (model.text_projection, 1)):
        linear.weight.data.zero_()[column] = 1.0
    assert model(images, texts).item() == pytest.approx(len(texts) * math.log(2), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "SigLIP: expected scale to be positive"),
        ({"bias": math.inf}, "SigLIP: expected bias to be finite, got inf"),
        ({"projection_dim": -3}, "SigLIP: expected projection_dim to be positive"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_single_pair_is_refused_where_a_norm_needs_two() -> None:
    images, texts = pair_batches()[0]
    with pytest.raises(ValueError, match=r"SigLIP: .* at least 2 samples"):
        make()(images[:1], texts[:1])
    with pytest.raises(ValueError, match="SigLIP: expected texts to be one for each of the 6"):
        make()(images, texts[:4])
