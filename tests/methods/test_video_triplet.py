"""Video triplets beside their formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import VideoTriplet


def make(**options: Any) -> VideoTriplet:
    torch.manual_seed(0)
    settings = {"margin": 0.4, "negatives": 2, "hard_from": 0.5, **options}
    return VideoTriplet(small_encoder(), 12, **settings).double()


def plain_loss(m: VideoTriplet, first: Tensor, last: Tensor) -> Tensor:
    anchors, others = unit(m.encoder(torch.cat([first, last]))).chunk(2)
    draws = torch.rand(len(first), len(first), dtype=torch.float64)
    losses = []
    for i, anchor in enumerate(anchors):
        far = {j: 1 - anchor @ other for j, other in enumerate(others)}
        near = far.pop(i)
        rank = far if m.progress >= 0.5 else draws[i]
        chosen = sorted(far, key=lambda j, rank=rank: rank[j].item())[: m.negatives]
        losses += [(near - far[j] + m.margin).clamp(min=0) for j in chosen]
    return torch.stack(losses).mean()


def plain_update(m: VideoTriplet, progress: float) -> None:
    m.progress.copy_(torch.tensor(progress))


def test_steps_equal_the_formula() -> None:
    """Random negatives in the first two of four steps, the closest ones in the others."""
    check_steps(make(), plain_loss, image_batches(steps=4), plain_update)


def loss_of(first: Tensor, last: Tensor, **options: Any) -> float:
    model = VideoTriplet(nn.Identity(), first.shape[1], hard_from=0.0, **options)
    return model(first, last).item()


def test_orthogonal_tracks_are_apart_enough() -> None:
    """Distances are 0 within and 1 between: only a margin above 1 is short, by what exceeds it."""
    rows = torch.eye(5)
    assert loss_of(rows, 3 * rows, margin=0.5) == 0
    assert loss_of(rows, 3 * rows, margin=1.25) == pytest.approx(0.25)


def test_equal_features_cost_the_margin() -> None:
    rows = torch.ones(5, 3)
    assert loss_of(rows, rows, margin=0.5) == pytest.approx(0.5)


def test_hard_negatives_are_the_closest() -> None:
    """The one other patch that equals the anchors costs 1 + 1/2, the others 1/2 each."""
    first = torch.eye(4)[[0, 0, 0, 0]]
    last = torch.eye(4)[[1, 0, 1, 1]]
    hard = VideoTriplet(nn.Identity(), 4, negatives=1, hard_from=0.0)
    # Anchor 1 is beside its own patch, at distance 0; its negatives are at distance 1.
    assert hard(first, last).item() == pytest.approx((3 * 1.5 + 0) / 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "VideoTriplet: expected margin to be positive"),
        ({"negatives": 0}, "expected negatives to be positive, got 0"),
        ({"hard_from": 1.5}, "expected hard_from to be from 0 to 1, got 1.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = VideoTriplet(nn.Identity(), 4)
    with pytest.raises(ValueError, match=r"expected view 2 .* \(5, 4\), got \(6, 4\)"):
        model(torch.rand(5, 4), torch.rand(6, 4))
    with pytest.raises(ValueError, match="of more tracks than the 4 negatives, got 4"):
        model(torch.rand(4, 4), torch.rand(4, 4))
    with pytest.raises(ValueError, match=r"expected encoder .* \(10, 4\), got \(10, 3\)"):
        model(torch.rand(5, 3), torch.rand(5, 3))
