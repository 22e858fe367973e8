"""word2vec, both objectives, beside its formula; and its windows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps
from torch import Tensor, nn

from sslkern.methods import Word2Vec
from sslkern.train.windows import keep_probability, windows

COUNTS = torch.tensor([6, 0, 3, 1, 2, 4])
DIM, NEGATIVES = 4, 3


def make(objective: str = "skip_gram", *, start: bool = False, **options: Any) -> Word2Vec:
    torch.manual_seed(0)
    settings = {"dim": DIM, "negatives": NEGATIVES, **options}
    model = Word2Vec(COUNTS, objective=objective, **settings).double()
    if not start:
        nn.init.normal_(model.output)
    return model


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randint(6, (5, 4), generator=generator)
    context[torch.rand(5, 4, generator=generator) < 0.3] = -1
    context[2] = -1
    return torch.randint(6, (5,), generator=generator), context


def noise(pairs: int) -> list[list[int]]:
    """Words drawn where uniform numbers fall among the cumulated counts to the power of 3/4."""
    mass = [float(c) ** 0.75 for c in COUNTS.tolist()]
    places = torch.rand(pairs, NEGATIVES, dtype=torch.float64) * sum(mass)
    return [
        [sum(p >= sum(mass[: w + 1]) for w in range(5)) for p in row] for row in places.tolist()
    ]


def plain_loss(m: Word2Vec, center: Tensor, context: Tensor) -> Tensor:
    v, u = m.encoder.weight, m.output
    pairs: list[tuple[Tensor, int] | None] = []
    for word, around in zip(center.tolist(), context.tolist(), strict=True):
        if m.objective == "skip_gram":
            pairs += [(v[word], other) if other >= 0 else None for other in around]
        else:
            known = [other for other in around if other >= 0]
            pairs.append((v[known].mean(0), word) if known else None)
    losses = []
    for pair, drawn in zip(pairs, noise(len(pairs)), strict=True):
        if pair is not None:
            query, positive = pair
            loss = (1 + (-query @ u[positive]).exp()).log()
            losses.append(loss + sum((1 + (query @ u[k]).exp()).log() for k in drawn))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_steps_equal_the_formula(objective: str) -> None:
    check_steps(make(objective), plain_loss, [batch(seed) for seed in range(3)])


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_loss_at_the_start_is_that_of_a_coin_for_each_word(objective: str) -> None:
    model = make(objective, start=True)
    assert model(*batch()).item() == pytest.approx((NEGATIVES + 1) * math.log(2), abs=1e-9)
    assert 0 < model.encoder.weight.abs().max() <= 0.5 / DIM


def test_what_is_not_there_does_not_count() -> None:
    """No gradient from the center without a context, which is in no other place."""
    for objective in ("skip_gram", "cbow"):
        model = make(objective)
        model(torch.tensor([0, 3]), torch.tensor([[2, 4], [-1, -1]])).backward()
        assert not model.encoder.weight.grad[3].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "glove"}, "Word2Vec: expected objective to be 'skip_gram' or 'cbow', got"),
        ({"dim": 0}, "Word2Vec: expected dim to be positive"),
        ({"negatives": 0}, "Word2Vec: expected negatives to be positive"),
        ({"power": -1.0}, "expected power to be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_words_that_do_not_fit_are_refused() -> None:
    center, context = batch()
    with pytest.raises(ValueError, match=r"shapes \(B,\) and \(B, W\), got shapes \(4,\)"):
        make()(center[:4], context)
    with pytest.raises(ValueError, match=r"expected center to be of dtype torch.int64"):
        make()(center.int(), context)
    with pytest.raises(ValueError, match="expected context to be of at least one word, got none"):
        make()(center, torch.full_like(context, -1))
    with pytest.raises(ValueError, match=r"expected context to be of words, or -1 .*, got -2"):
        make()(center, context - 1)
    with pytest.raises(ValueError, match=r"expected center to be of values in \[0, 6\), got 6"):
        make()(torch.full_like(center, 6), context)


def test_frequent_words_are_kept_less() -> None:
    keep = keep_probability(torch.tensor([0, 400, 9600]), threshold=0.01)
    expected = [1.0, 0.5 + 0.25, (0.01 / 0.96) ** 0.5 + 0.01 / 0.96]
    assert keep.tolist() == pytest.approx(expected)


def test_windows_lie_within_texts_from_which_words_were_dropped() -> None:
    texts = torch.tensor([[0, 1, 2, 1, 3], [4, 1, 1, 5, 1]])
    keep = torch.ones(6, dtype=torch.float64)
    keep[1] = 0
    center, context = windows(texts, keep, 1, torch.Generator().manual_seed(0))
    assert center.tolist() == [0, 2, 3, 4, 5]
    assert context.tolist() == [[-1, 2], [0, 3], [2, -1], [-1, 5], [4, -1]]


def test_windows_are_as_often_of_each_size() -> None:
    """Of three sizes, all reach the next word, two the second and one the third."""
    texts = torch.arange(10).repeat(3000, 1)
    generator = torch.Generator().manual_seed(0)
    center, context = windows(texts, torch.ones(10, dtype=torch.float64), 3, generator)
    middle = context[center == 5]
    present = (middle >= 0).double().mean(0)
    torch.testing.assert_close(
        present, torch.tensor([1, 2, 3, 3, 2, 1]).double() / 3, rtol=0, atol=0.05
    )
    assert middle.max(0).values.tolist() == [2, 3, 4, 6, 7, 8]
