"""CPC beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import CPC

WIDTH, FEATURES, CONTEXT, OFFSETS = 3, 4, 5, 2


def make(**options: Any) -> CPC:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.BatchNorm1d(FEATURES), nn.Tanh())
    settings = {"context_dim": CONTEXT, "offsets": OFFSETS, **options}
    return CPC(encoder, FEATURES, **settings).double()


def sequences(batch: int = 3, length: int = 6, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, dtype=torch.float64, generator=generator)


def gates(m: CPC, z: Tensor) -> Tensor:
    """Contexts of features (B, T, F), step by step."""
    gru, states = m.context, []
    h = z.new_zeros(len(z), CONTEXT)
    for t in range(z.shape[1]):
        r_in, u_in, n_in = (z[:, t] @ gru.weight_ih_l0.T + gru.bias_ih_l0).chunk(3, 1)
        r_h, u_h, n_h = (h @ gru.weight_hh_l0.T + gru.bias_hh_l0).chunk(3, 1)
        reset, keep = (r_in + r_h).sigmoid(), (u_in + u_h).sigmoid()
        h = keep * h + (1 - keep) * (n_in + reset * n_h).tanh()
        states.append(h)
    return torch.stack(states, 1)


def plain_loss(m: CPC, x: Tensor) -> Tensor:
    batch, length = x.shape[:2]
    z = m.encoder(x.reshape(batch * length, WIDTH)).reshape(batch, length, FEATURES)
    c = gates(m, z)
    losses = []
    for k in range(1, OFFSETS + 1):
        places = [(b, t) for b in range(batch) for t in range(length - k)]
        candidates = torch.stack([z[b, t + k] for b, t in places])
        guesses = torch.stack([m.predictors[k - 1].weight @ c[b, t] for b, t in places])
        scores = guesses @ candidates.T
        losses.append(nn.functional.cross_entropy(scores, torch.arange(len(places))))
    return sum(losses) / OFFSETS


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, [(sequences(seed=i),) for i in range(3)])


def test_equal_scores_leave_the_log_of_the_number_of_pieces() -> None:
    model = make()
    for predictor in model.predictors:
        nn.init.zeros_(predictor.weight)
    expected = (math.log(3 * 5) + math.log(3 * 4)) / 2
    torch.testing.assert_close(model(sequences()).item(), expected, rtol=1e-12, atol=0)


def test_contexts_do_not_see_what_follows() -> None:
    model, x = make().eval(), sequences()
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = model.contexts(x), model.contexts(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offsets": 0}, "CPC: expected offsets to be positive, got 0"),
        ({"context_dim": -1}, "CPC: expected context_dim to be positive, got -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("batch", "length"),
    [(3, 2), (1, 3), (0, 6)],
    ids=["no pair of the last offset", "one pair", "no sequence"],
)
def test_short_sequences_are_refused(batch: int, length: int) -> None:
    with pytest.raises(ValueError, match="at least two pieces 2 behind another, got shape"):
        make()(sequences(batch, length))


def test_encoder_of_another_width_is_refused() -> None:
    model = CPC(nn.Identity(), FEATURES)
    with pytest.raises(ValueError, match=r"CPC: expected encoder .* \(42, 4\), got \(42, 3\)"):
        model(sequences(3, 14).float())
