"""CLIP beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dual import TEXT_DIM, make_pair_method, pair_batches, plain_rows
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import CLIP


def make(**options: Any) -> CLIP:
    model: CLIP = make_pair_method(CLIP, **options)
    return model


def plain_loss(m: CLIP, images: Tensor, texts: Tensor) -> Tensor:
    x, t = plain_rows(m, images, texts)
    logits = m.log_scale.exp() * x @ t.T
    own = logits.diagonal()
    return ((logits.logsumexp(1) - own).mean() + (logits.logsumexp(0) - own).mean()) / 2


def plain_update(m: CLIP, progress: float) -> None:
    m.log_scale.fill_(min(max(m.log_scale.item(), 0.0), math.log(100)))


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1.0])
def test_steps_equal_the_formula(temperature: float) -> None:
    check_steps(make(temperature=temperature), plain_loss, pair_batches(), plain_update)


def test_scale_is_kept_from_1_to_100() -> None:
    model = make()
    assert model.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    for start, end in ((9.0, math.log(100)), (-0.5, 0.0), (1.5, 1.5)):
        nn.init.constant_(model.log_scale, start)
        model.update()
        assert model.log_scale.item() == end


def test_loss_of_equal_similarities_is_the_logarithm_of_the_batch() -> None:
    images, texts = pair_batches()[0]
    model = make()
    for linear, column in ((model.projection, 0), (model.text_projection, 1)):
        linear.weight.data.zero_()[column] = 1.0  # rows at right angles
    assert model(images, texts).item() == pytest.approx(math.log(6), abs=1e-9)


def test_rows_are_of_unit_norm() -> None:
    images, texts = pair_batches()[0]
    model = make()
    for rows in (model.embed_images(images), model.embed_texts(texts)):
        assert rows.shape == (6, 5)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(6).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "CLIP: expected temperature to be positive"),
        ({"projection_dim": 0}, "CLIP: expected projection_dim to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    images, texts = pair_batches()[0]
    with pytest.raises(ValueError, match=r"texts to be one for each of the 6 images, .*\(5, 3\)"):
        make()(images, texts[:5])
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(images[:1], texts[:1])
    wide = nn.EmbeddingBag(20, TEXT_DIM + 1)
    with pytest.raises(ValueError, match=r"expected encoder .* \(6, 7\), got \(6, 8\)"):
        make(text_encoder=wide)(images, texts)
