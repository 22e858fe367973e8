"""The causal language model beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn
from writing import DIM, LENGTH, PAD, WORDS, Looking, texts, word_loss

from sslkern.methods import CausalLM


def make(**options: Any) -> CausalLM:
    torch.manual_seed(0)
    settings = {"length": LENGTH, "pad_token": PAD, **options}
    encoder = settings.pop("encoder", None) or Looking()
    return CausalLM(encoder, WORDS, DIM, **settings).double()


def plain_loss(m: CausalLM, tokens: Tensor) -> Tensor:
    """Of each word by a pass of its own over the words before it, without any mask."""
    losses = []
    for row in tokens.tolist():
        for end in range(1, LENGTH):
            if row[end] == PAD and m.pad_token == PAD:
                continue
            x = [m.words.weight[w] + m.positions.weight[i] for i, w in enumerate(row[:end])]
            losses.append(word_loss(m, m.encoder(torch.stack(x)[None])[0, -1], row[end]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("pad_token", [PAD, None])
def test_steps_equal_the_formula(pad_token: int | None) -> None:
    batches = [(texts((4, LENGTH), seed, pads=True),) for seed in range(3)]
    check_steps(make(pad_token=pad_token), plain_loss, batches)


def test_loss_of_equal_scores_is_the_logarithm_of_the_vocabulary() -> None:
    model = make()
    nn.init.zeros_(model.words.weight)
    assert model(texts((4, LENGTH))).item() == pytest.approx(math.log(WORDS), abs=1e-9)


def test_transformer_of_torch_does_not_look_ahead() -> None:
    layer = nn.TransformerEncoderLayer(DIM, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model, tokens = make(encoder=encoder), texts((2, LENGTH))
    before = model.encode_words(tokens)
    tokens[:, 3] = (tokens[:, 3] + 1) % WORDS
    after = model.encode_words(tokens)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CausalLM: expected tokens .* 2 words, .*\(4, 1\)"):
        make()(texts((4, 1)))
    with pytest.raises(ValueError, match=r"tokens to be of shape \(B, L\) with L from 1 to 5"):
        make()(texts((4, 6)))
    with pytest.raises(ValueError, match=r"expected encoder .* \(4, 4, 6\), got \(4, 4, 3\)"):
        make(encoder=Looking(out=3))(texts((4, LENGTH)))


@pytest.mark.parametrize("name", ["vocabulary", "dim", "length"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"vocabulary": WORDS, "dim": DIM, "length": LENGTH, name: 0}
    with pytest.raises(ValueError, match=f"CausalLM: expected {name} to be positive, got 0"):
        CausalLM(Looking(), **sizes)
