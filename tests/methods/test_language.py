"""Masks of words."""

from __future__ import annotations

import math

import torch

from sslkern.methods.parts.language import IGNORED, WordMask, causal_mask

WORDS, MASK, SPECIAL = 50, 1, 2
COUNT = 200_000


def share_within(share: float, expected: float, count: int) -> bool:
    """Within five standard deviations of a draw with this probability."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


def test_words_are_hidden_as_often_as_the_paper_says() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(3, WORDS, (COUNT // 50, 50))
    inputs, targets = WordMask("x", WORDS, MASK, (), 0.15)(tokens)
    chosen = targets != IGNORED
    count = int(chosen.sum())
    assert share_within(count / COUNT, 0.15, COUNT)
    assert share_within((inputs[chosen] == MASK).double().mean().item(), 0.8 + 0.1 / WORDS, count)
    kept = (inputs[chosen] == tokens[chosen]).double().mean().item()
    assert share_within(kept, 0.1 + 0.1 / WORDS, count)
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert torch.equal(targets[chosen], tokens[chosen])


def test_words_that_are_never_hidden_stay() -> None:
    tokens = torch.randint(WORDS, (100, 50), generator=torch.Generator().manual_seed(0))
    inputs, targets = WordMask("x", WORDS, MASK, (SPECIAL, 7), 1.0)(tokens)
    never = (tokens == SPECIAL) | (tokens == 7)
    assert torch.equal(targets == IGNORED, never)
    assert torch.equal(inputs[never], tokens[never])


def test_same_seed_hides_the_same_words() -> None:
    tokens, mask = torch.full((4, 30), 9), WordMask("x", WORDS, MASK, (), 0.5)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(mask(tokens)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_causal_mask_hides_what_comes() -> None:
    mask = causal_mask(3, torch.device("cpu"))
    assert mask.tolist() == [[False, True, True], [False, False, True], [False, False, False]]
