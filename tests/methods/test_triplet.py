"""The triplet loss beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projected import check_shapes
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import Triplet

BATCH = 6


def make(**options: Any) -> Triplet:
    torch.manual_seed(0)
    return Triplet(small_encoder(), 12, **{"projection_dim": 5, **options}).double()


def plain_loss(m: Triplet, view_a: Tensor, view_b: Tensor) -> Tensor:
    anchor, positive = (unit(m.head(m.encoder(view))) for view in (view_a, view_b))
    drawn = torch.randint(BATCH - 1, (BATCH, 1)).flatten().tolist()
    losses = []
    for i in range(BATCH):
        others = [((anchor[i] - positive[j]) ** 2).sum() for j in range(BATCH) if j != i]
        negative = min(others) if m.mining == "hardest" else others[drawn[i]]
        near = ((anchor[i] - positive[i]) ** 2).sum()
        losses.append((near - negative + m.margin).clamp_min(0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    "options", [{"margin": 1.0}, {"mining": "hardest"}, {"hidden_dim": 7, "margin": 0.5}]
)
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches(batch=BATCH))


def bare(**options: Any) -> Triplet:
    """The loss of the inputs themselves."""
    model = Triplet(nn.Identity(), 2, **options)
    model.head = nn.Identity()
    return model.double()


def test_hardest_negative_is_the_closest_one() -> None:
    """Two of three rows are orthogonal, the third one is opposite to the first."""
    z = torch.tensor([[1.0, 0], [0, 1], [-1, 0]], dtype=torch.float64)
    hardest = bare(mining="hardest", margin=3.0)
    assert hardest(z, z).item() == pytest.approx(3 - 2, rel=1e-12)


def test_random_negatives_are_those_of_other_samples() -> None:
    """With two samples there is no choice, and the own positive is no negative."""
    z = torch.eye(2, dtype=torch.float64)
    for seed in range(8):
        torch.manual_seed(seed)
        assert bare(margin=2.5)(z, z).item() == pytest.approx(0.5, rel=1e-12)


def test_collapse_costs_the_margin() -> None:
    z = torch.ones(4, 2, dtype=torch.float64)
    for mining in ("random", "hardest"):
        assert bare(mining=mining)(z, z).item() == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1.0}, "Triplet: expected margin to be positive"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
        ({"mining": "easy"}, "Triplet: expected mining to be 'random' or 'hardest', got 'easy'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    check_shapes(make())
