"""XLM with each of its objectives beside its formula."""

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
    plain_masks,
    texts,
    word_loss,
)

from sslkern.methods import XLM

LANGUAGES = 3


def make(objective: str, **options: Any) -> XLM:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"languages": LANGUAGES, "mask_token": MASK, "length": LENGTH}
    settings |= {"special_tokens": (SPECIAL,), "pad_token": PAD, "mask_rate": 0.5, **options}
    encoder = settings.pop("encoder", None) or Looking()
    return XLM(encoder, WORDS, DIM, objective=objective, **settings).double()


def batch(objective: str, seed: int = 1) -> Batch:
    if objective == "tlm":
        languages = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0]])
        return texts((4, 2, LENGTH), seed, pads=True), languages
    return texts((4, LENGTH), seed, pads=True), torch.tensor([0, 2, 1, 2])


def plain_loss(m: XLM, tokens: Tensor, languages: Tensor) -> Tensor:
    if m.objective == "clm":
        return plain_causal_loss(m, tokens, languages)
    inputs, predicted = plain_masks(tokens, 0.5, {SPECIAL, PAD})
    losses = []
    for i in range(len(tokens)):
        # One list of words, each with its language and its place in its sentence.
        words = inputs[i].flatten().tolist()
        spoken = [k for k in languages[i].flatten().tolist() for _ in range(LENGTH)]
        x = embedded(m, words, spoken, list(range(LENGTH)) * (len(words) // LENGTH))
        h = m.encoder(x, None, torch.tensor([words]) == PAD)[0]
        places = predicted[i].flatten().nonzero().flatten().tolist()
        losses += [word_loss(m, h[j], int(tokens[i].flatten()[j])) for j in places]
    return torch.stack(losses).mean()


def plain_causal_loss(m: XLM, tokens: Tensor, languages: Tensor) -> Tensor:
    losses = []
    for row, language in zip(tokens.tolist(), languages.tolist(), strict=True):
        for end in range(1, LENGTH - row.count(PAD)):
            x = embedded(m, row[:end], [language] * end, range(end))
            losses.append(word_loss(m, m.encoder(x)[0, -1], row[end]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("objective", ["clm", "mlm", "tlm"])
def test_steps_equal_the_formula(objective: str) -> None:
    check_steps(make(objective), plain_loss, [batch(objective, seed) for seed in range(3)])


@pytest.mark.parametrize("objective", ["clm", "mlm", "tlm"])
def test_loss_of_equal_scores_is_the_logarithm_of_the_vocabulary(objective: str) -> None:
    model = make(objective)
    nn.init.zeros_(model.words.weight)
    assert model(*batch(objective)).item() == pytest.approx(math.log(WORDS), abs=1e-9)


def test_translation_reaches_the_sentence_and_its_padding_does_not() -> None:
    model = make("tlm")
    tokens, languages = batch("tlm")
    before = model.encode_sentences(tokens, languages)[:, :LENGTH]
    other = tokens.clone()
    other[0, 1, 0] = (other[0, 1, 0] + 1) % WORDS
    after = model.encode_sentences(other, languages)[:, :LENGTH]
    assert not torch.allclose(after[0], before[0])
    model.words.weight.data[PAD] = 1.0
    torch.testing.assert_close(
        model.encode_sentences(tokens, languages)[0, : LENGTH - 2], before[0, : LENGTH - 2]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "mass"}, "XLM: expected objective to be 'clm' or 'mlm' or 'tlm'"),
        ({"languages": 0}, "XLM: expected languages to be positive, got 0"),
        ({"mask_token": -2}, "XLM: expected mask_token to be in"),
        ({"mask_rate": -0.1}, "XLM: expected mask_rate to be from 0 to 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"objective": "mlm", **options})


def test_shapes_and_languages_that_do_not_fit_are_refused() -> None:
    tokens, languages = batch("mlm")
    pairs, both = batch("tlm")
    with pytest.raises(ValueError, match=r"tokens to be of shape \(B, 2, L\)"):
        make("tlm")(tokens, languages)
    with pytest.raises(ValueError, match=r"tokens to be .* a sentence and its translation"):
        make("tlm")(pairs[:, :1], both[:, :1])
    with pytest.raises(ValueError, match=r"tokens to be of shape \(B, L\)"):
        make("mlm")(pairs, both)
    with pytest.raises(ValueError, match=r"languages to be torch.int64 of shape \(4,\)"):
        make("clm")(tokens, languages[:2])
    with pytest.raises(ValueError, match=r"languages to be of values in \[0, 3\), got 3"):
        make("mlm")(tokens, languages + 1)
    with pytest.raises(ValueError, match=r"XLM: expected tokens to be of at least 2 words"):
        make("clm")(tokens[:, :1], languages)
