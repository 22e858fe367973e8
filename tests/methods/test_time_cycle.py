"""Time cycle beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clips import clip_batches, small_map_encoder
from steps import check_steps, unit
from torch import Tensor, nn

from sslkern.methods import TimeCycle
from sslkern.methods.time_cycle import ExpectedShift

SIDE, PATCH = 5, 3  # cells of a frame and of a patch


def make(**options: Any) -> TimeCycle:
    torch.manual_seed(0)
    settings = {"temperature": 0.3, "cycle_weight": 0.2, "own_weight": 0.7, **options}
    return TimeCycle(small_map_encoder(), 6, (SIDE, SIDE), PATCH, **settings).double()


def points(shift_x: Tensor, shift_y: Tensor, angle: Tensor) -> Tensor:
    """Where the cells of a square are, (PATCH, PATCH, 2)."""
    rows = []
    for r in range(PATCH):
        for c in range(PATCH):
            x, y = (2 * c + 1) / PATCH - 1, (2 * r + 1) / PATCH - 1
            turned_x = x * angle.cos() - y * angle.sin()
            turned_y = x * angle.sin() + y * angle.cos()
            share = PATCH / SIDE
            rows.append(torch.stack([share * turned_x + shift_x, share * turned_y + shift_y]))
    return torch.stack(rows).reshape(PATCH, PATCH, 2)


def track(m: TimeCycle, frame: Tensor, patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patch, points and mean affinity of a patch (C, PATCH, PATCH) in a map (C, SIDE, SIDE)."""
    cosines = unit(frame.flatten(1).T) @ unit(patch.flatten(1).T).T
    affinity = (cosines / m.temperature).softmax(0)
    place = points(*m.localizer(affinity.reshape(1, SIDE**2, PATCH, PATCH))[0])
    found = nn.functional.grid_sample(frame[None], place[None], align_corners=False)[0]
    here = [
        nn.functional.grid_sample(
            affinity[:, i].reshape(1, 1, SIDE, SIDE), place.reshape(1, -1, 1, 2)[:, i : i + 1]
        )
        for i in range(PATCH**2)
    ]
    return found, place, torch.cat(here).mean()


def plain_loss(m: TimeCycle, frames: Tensor) -> Tensor:
    free = SIDE - PATCH
    columns, rows = (torch.randint(free + 1, (len(frames),)) for _ in range(2))
    losses = []
    for clip, row, column in zip(frames, rows.tolist(), columns.tolist(), strict=True):
        maps = [m.encoder(frame[None])[0] for frame in clip]
        last = clip[-1][:, 2 * row : 2 * (row + PATCH), 2 * column : 2 * (column + PATCH)]
        patch = m.encoder(last[None])[0]
        shift = [torch.tensor((2.0 * i - free) / SIDE, dtype=torch.float64) for i in (column, row)]
        truth = points(*shift, torch.zeros((), dtype=torch.float64))
        _, own, loss = track(m, maps[-1], patch)
        loss = m.own_weight * ((own - truth).square().sum(2).mean() - loss)
        for i in range(1, len(maps)):
            skipped, _, affinity = track(m, maps[-1 - i], patch)
            loss = loss - affinity
            long = patch
            for t in [*range(1, i + 1), *range(i - 1, 0, -1)]:
                long = track(m, maps[-1 - t], long)[0]
            for end in (skipped, long):
                found = track(m, maps[-1], end)[1]
                loss = loss + m.cycle_weight * (found - truth).square().sum(2).mean()
        losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("localizer", [None, ExpectedShift((SIDE, SIDE), PATCH)])
@pytest.mark.filterwarnings("ignore:Default grid_sample")
def test_steps_equal_the_formula(localizer: nn.Module | None) -> None:
    check_steps(make(localizer=localizer), plain_loss, clip_batches(frames=4, size=2 * SIDE))


def test_distinct_cells_that_stay_are_found_where_they_are() -> None:
    """Each pixel a color of its own: all cycles close and every affinity is one."""
    still = torch.eye(12, dtype=torch.float64).reshape(1, 1, 12, 3, 4).expand(3, 4, -1, -1, -1)
    localizer = ExpectedShift((3, 4), 2)
    model = TimeCycle(nn.Identity(), 12, (3, 4), 2, localizer=localizer, temperature=1e-3).double()
    assert model(still).item() == pytest.approx(-4, abs=1e-6)


def test_expected_shift_is_where_the_affinity_is() -> None:
    """A patch of 2 x 2 in the last rows and first columns of a map of 4 x 5."""
    affinity = torch.zeros(1, 20, 2, 2)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        affinity[0, (row + 2) * 5 + column, row, column] = 1
    found = ExpectedShift((4, 5), 2)(affinity)
    torch.testing.assert_close(found, torch.tensor([[-0.6, 0.5, 0.0]]))


def test_angle_turns_the_square() -> None:
    class Turn(nn.Module):
        def forward(self, affinity: Tensor) -> Tensor:
            return torch.tensor([[0.0, 0.0, math.pi / 2]], dtype=affinity.dtype)

    frame = torch.arange(9, dtype=torch.float64).reshape(1, 1, 3, 3)
    model = TimeCycle(nn.Identity(), 1, (3, 3), 3, localizer=Turn()).double()
    found = model._track(frame, frame).patch
    torch.testing.assert_close(found, frame.transpose(2, 3).flip(3).flip(2).flip(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "TimeCycle: expected temperature to be positive"),
        ({"cycle_weight": -1.0}, "expected cycle_weight to be finite and not negative, got -1.0"),
        ({"own_weight": -0.5}, "expected own_weight to be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("patch_size", [1, 5])
def test_patch_must_fit(patch_size: int) -> None:
    with pytest.raises(ValueError, match="expected patch_size to be from 2 to the shorter side"):
        TimeCycle(nn.Identity(), 3, (4, 6), patch_size)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"TimeCycle: expected frames .* at least 2 frames"):
        make()(torch.rand(2, 1, 3, 10, 10, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"returns \(5, 5\) cells for \(8, 8\) pixels, got \(4, 4"):
        make()(torch.rand(2, 2, 3, 8, 8, dtype=torch.float64))
