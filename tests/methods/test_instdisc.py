"""Instance discrimination beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import InstDisc

SAMPLES, K = 9, 5
INDEX = ([0, 3, 4, 5, 8, 1], [3, 2, 1, 0, 7, 6], [5, 5, 0, 5, 2, 8])  # one of them repeats itself


def make(**options: Any) -> InstDisc:
    torch.manual_seed(0)
    settings = {"projection_dim": 4, "negatives": K, "temperature": 0.3, "momentum": 0.6}
    return InstDisc(small_encoder(), 12, SAMPLES, **{**settings, **options}).double()


def batches() -> list[Batch]:
    views = image_batches(views=1)
    return [(view, torch.tensor(index)) for (view,), index in zip(views, INDEX, strict=True)]


def plain_loss(m: InstDisc, view: Tensor, index: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(view)))
    memory = m.instances.memory.rows
    scores = (z @ memory.clone().T / 0.3).exp()
    if m.instances.negatives == 0:
        loss = -(scores[range(len(z)), index] / scores.sum(1)).log().mean()
    else:
        drawn = torch.randint(SAMPLES, (len(z), K))
        kept = m.instances.log_normalizer
        if kept.isnan():
            chosen = scores.detach().gather(1, torch.cat([index[:, None], drawn], 1))
            kept.copy_((chosen.mean() * SAMPLES).log())
        p, noise = scores / kept.exp(), K / SAMPLES
        positive = p.gather(1, index[:, None])[:, 0]
        negative = p.gather(1, drawn)
        loss = -(positive / (positive + noise)).log().mean()
        loss = loss - (noise / (negative + noise)).log().sum(1).mean()
    with torch.no_grad():
        old = memory.clone()
        for i, row in zip(index.tolist(), z, strict=True):
            memory[i] = unit(0.6 * old[i] + 0.4 * row)
    return loss


@pytest.mark.parametrize("negatives", [0, K])
def test_steps_equal_the_formula(negatives: int) -> None:
    check_steps(make(negatives=negatives), plain_loss, batches())


def test_memory_of_zeros_leaves_the_chance_of_the_noise() -> None:
    """All P are 1 / n then, with the Z of that batch."""
    model = make()
    model.instances.memory.rows.zero_()
    expected = math.log(K + 1) + K * math.log((K + 1) / K)
    assert model(*batches()[0]).item() == pytest.approx(expected, rel=1e-12)
    assert model.instances.log_normalizer.exp().item() == pytest.approx(SAMPLES, rel=1e-12)


def test_memory_of_equal_rows_leaves_the_log_of_their_number() -> None:
    model = make(negatives=0)
    model.instances.memory.rows.fill_(0.5)
    assert model(*batches()[0]).item() == pytest.approx(math.log(SAMPLES), rel=1e-12)


def test_normalizer_stays_that_of_the_first_batch() -> None:
    model = make()
    first, second, _ = batches()
    model(*first)
    kept = model.instances.log_normalizer.clone()
    model(*second)
    assert torch.equal(model.instances.log_normalizer, kept)
    loaded = make()
    loaded.load_state_dict(model.state_dict())
    loaded(*second)
    assert torch.equal(loaded.instances.log_normalizer, kept)


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.instances.memory.rows.clone()
    assert model(*batches()[0]).isfinite()
    assert torch.equal(model.instances.memory.rows, before)
    assert bool(model.instances.log_normalizer.isnan())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "InstDisc: expected temperature to be positive"),
        ({"negatives": -1}, "InstDisc: expected negatives to be positive, got -1"),
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="expected size to be positive, got 0"):
        InstDisc(small_encoder(), 12, 0)


@pytest.mark.parametrize("negatives", [0, K])
def test_index_that_does_not_fit_is_refused(negatives: int) -> None:
    model = make(negatives=negatives)
    view, index = batches()[0]
    with pytest.raises(ValueError, match=r"InstDisc: expected index .* \(6,\), got shape \(5,\)"):
        model(view, index[1:])
    with pytest.raises(ValueError, match=r"InstDisc: expected index .* in \[0, 9\), got 9"):
        model(view, index + 1)
    with pytest.raises(TypeError, match="InstDisc: expected index to be of dtype"):
        model(view, index.int())


def test_single_sample_is_refused_where_a_norm_needs_two() -> None:
    view, index = batches()[0]
    with pytest.raises(ValueError, match=r"InstDisc: .* at least 2 samples, which batch norm"):
        make()(view[:1], index[:1])
