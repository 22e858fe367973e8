"""Masks that are carried through clips by features whose matches are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslkern.data import Video
from sslkern.train.correspondence import near, propagate, score


def rolling(frames: int, side: int, step: int) -> Tensor:
    """Maps (1, T, S, side, side) of distinct cells, which move ``step`` columns a frame, around."""
    cells = torch.eye(side**2).reshape(side**2, side, side)
    return torch.stack([cells.roll(step * t, 2) for t in range(frames)])[None]


def test_labels_follow_cells_that_are_told_apart() -> None:
    first = torch.rand(1, 3, 4, 4)
    found = propagate(rolling(5, 4, 1), first, radius=4, temperature=1e-3)
    for t in range(5):
        torch.testing.assert_close(found[:, t], first.roll(t, 3))


def test_equal_features_take_the_mean_in_reach() -> None:
    """Of one row of three cells the middle one sees all, the first one itself and its neighbor."""
    first = torch.tensor([0.0, 3.0, 9.0]).reshape(1, 1, 1, 3)
    found = propagate(torch.ones(1, 2, 4, 1, 3), first, radius=1, neighbours=2, memory=1)
    assert found[0, 1, 0, 0, 0].item() == pytest.approx(1.5)
    assert found[0, 1, 0, 0, 2].item() == pytest.approx(6.0)


def test_cells_out_of_reach_lend_nothing() -> None:
    """Cells move by two columns, but only one can be reached: what matches is not seen."""
    first = torch.zeros(1, 1, 5, 5)
    first[..., 2, 1] = 1
    found = propagate(rolling(2, 5, 2), first, radius=1, neighbours=1, temperature=1e-3)
    assert found[0, 1, 0, 2, 3] == 0


def test_near_is_a_square() -> None:
    reach = near(3, 4, 1)
    assert reach[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert torch.equal(reach, reach.T)


def test_scores_of_masks_by_hand() -> None:
    """Digit 1: 2 of 3 in the union; digit 2 is hidden in the frame and does not count."""
    true = torch.tensor([[[[1, 2], [0, 0]], [[1, 1], [0, 0]]]])
    found = torch.tensor([[[[0, 0], [0, 0]], [[1, 1], [1, 2]]]])
    unused = torch.zeros(1, 2, 3, 2, 2)
    video = Video(unused, torch.zeros(1, 2, 2, 2), true, torch.zeros(1, 2, dtype=torch.int64))
    scores = score(found, video)
    assert scores["iou"] == pytest.approx(2 / 3)
    assert scores["recall"] == 1
