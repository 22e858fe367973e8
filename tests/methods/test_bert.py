"""BERT beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps
from torch import Tensor, nn
from writing import (
    DIM,
    LENGTH,
    MASK,
    PAD,
    SPECIAL,
    WORDS,
    Looking,
    embedded,
    layer_norm,
    plain_masks,
    texts,
    word_loss,
)

from sslkern.methods import BERT


def make(**options: Any) -> BERT:
    torch.manual_seed(0)
    settings = {"mask_token": MASK, "special_tokens": (SPECIAL,), "pad_token": PAD}
    settings |= {"length": LENGTH, "mask_rate": 0.5, **options}
    encoder = settings.pop("encoder", None) or Looking()
    return BERT(encoder, WORDS, DIM, **settings).double()


def batch(seed: int = 1, *, pads: bool = True) -> Batch:
    tokens = texts((4, LENGTH), seed, pads=pads)
    tokens[:, 0] = SPECIAL
    segments = torch.tensor([0, 0, 1, 1, 1]).expand(4, LENGTH)
    return tokens, segments, torch.tensor([0, 1, 1, 0])


def plain_loss(m: BERT, tokens: Tensor, segments: Tensor, unrelated: Tensor) -> Tensor:
    inputs, predicted = plain_masks(tokens, 0.5, {SPECIAL, PAD})
    words, sentences = [], []
    for i in range(len(tokens)):
        x = embedded(m, inputs[i].tolist(), segments[i].tolist(), range(LENGTH))
        padding = None if m.pad_token is None else inputs[i : i + 1] == PAD
        h = m.encoder(x, None, padding)[0]
        for j in predicted[i].nonzero().flatten().tolist():
            dense, _, norm = m.transform
            a = dense.weight @ h[j] + dense.bias
            gelu = a * (1 + torch.erf(a / math.sqrt(2))) / 2
            words.append(word_loss(m, layer_norm(gelu, norm), int(tokens[i, j])))
        pool, _, two = m.next_sentence
        scores = two.weight @ torch.tanh(pool.weight @ h[0] + pool.bias) + two.bias
        sentences.append(scores.exp().sum().log() - scores[unrelated[i]])
    return torch.stack(words).mean() + torch.stack(sentences).mean()


@pytest.mark.parametrize("pad_token", [PAD, None])
def test_steps_equal_the_formula(pad_token: int | None) -> None:
    batches = [batch(seed, pads=pad_token is not None) for seed in range(3)]
    check_steps(make(pad_token=pad_token), plain_loss, batches)


def test_loss_of_equal_scores() -> None:
    model = make()
    for parameter in (model.words.weight, *model.next_sentence[-1].parameters()):
        nn.init.zeros_(parameter)
    assert model(*batch()).item() == pytest.approx(math.log(WORDS) + math.log(2), abs=1e-9)


def test_nothing_to_predict_leaves_the_next_sentence() -> None:
    model = make(mask_rate=0.0)
    nn.init.zeros_(model.next_sentence[-1].weight)
    nn.init.zeros_(model.next_sentence[-1].bias)
    assert model(*batch()).item() == pytest.approx(math.log(2), abs=1e-9)


def test_encoder_without_masks_is_called_with_the_words_alone() -> None:
    model = make(encoder=nn.Linear(DIM, DIM), pad_token=None)
    assert torch.isfinite(model(*batch(pads=False)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_token": WORDS}, r"BERT: expected mask_token to be in \[0, 11\)"),
        ({"special_tokens": (3, -1)}, r"BERT: expected special_tokens to be in \[0, 11\).*got -1"),
        ({"pad_token": 40}, "BERT: expected pad_token to be in"),
        ({"mask_rate": 1.5}, "BERT: expected mask_rate to be from 0 to 1, got 1.5"),
        ({"length": 0}, "BERT: expected length to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_arguments_that_do_not_fit_are_refused() -> None:
    tokens, segments, unrelated = batch()
    with pytest.raises(ValueError, match=r"tokens to be of shape \(B, L\) with L from 1 to 5"):
        make()(torch.cat([tokens, tokens], 1), segments, unrelated)
    with pytest.raises(ValueError, match=r"segments to be torch.int64 of shape \(4, 5\)"):
        make()(tokens, segments[:, :4], unrelated)
    with pytest.raises(ValueError, match=r"unrelated to be torch.int64 of shape \(4,\)"):
        make()(tokens, segments, unrelated[:3])
    with pytest.raises(ValueError, match=r"segments to be of values in \[0, 2\), got 2"):
        make()(tokens, segments + 1, unrelated)
    with pytest.raises(ValueError, match=r"tokens to be of values in \[0, 11\), got 19"):
        make()(tokens + 9, segments, unrelated)
    with pytest.raises(TypeError, match=r"tokens to be of dtype torch.int64, got torch.float32"):
        make()(tokens.float(), segments, unrelated)
    with pytest.raises(ValueError, match=r"BERT: expected encoder .* \(4, 5, 6\), got \(4, 5, 7\)"):
        make(encoder=Looking(out=DIM + 1))(tokens, segments, unrelated)
