"""Tracking by colors beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clips import clip_batches, small_map_encoder
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import ColorTracking
from sslkern.methods.color_tracking import color_palette
from sslkern.methods.parts.colors import rgb_to_lab

COLORS = torch.tensor([[0.0, 0.0], [0.2, 0.1], [-0.2, 0.0], [0.1, -0.3]], dtype=torch.float64)
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def make(**options: Any) -> ColorTracking:
    torch.manual_seed(0)
    settings = {"palette": COLORS, "temperature": 0.5, **options}
    return ColorTracking(small_map_encoder(channels=1), 6, **settings).double()


def plain_loss(m: ColorTracking, frames: Tensor) -> Tensor:
    lab = rgb_to_lab(frames) / 100
    losses = []
    for clip in lab:
        features = [m.encoder(frame[None, :1])[0].flatten(1).T for frame in clip]
        colors = [nn.functional.avg_pool2d(frame[1:], 2).flatten(1).T for frame in clip]
        own = [torch.stack([(c - m.palette).norm(dim=1).argmin() for c in rows]) for rows in colors]
        earlier, given = torch.cat(features[:-1]), torch.cat(own[:-1])
        attention = (features[-1] @ earlier.T / m.temperature).softmax(1)
        for j, right in enumerate(own[-1]):
            losses.append(-(attention[j][given == right].sum() + 1e-12).log())
    return torch.stack(losses).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, clip_batches(frames=4))


def painted(*rows: list[tuple[float, ...]]) -> Tensor:
    """A clip (1, T, 3, 1, W) of frames of one row of pixels."""
    return torch.tensor([rows], dtype=torch.float64).movedim(3, 2)[:, :, :, None]


def red_and_blue() -> Tensor:
    return color_palette(painted([RED, BLUE, RED, BLUE]), 2)


def test_equal_features_copy_the_share_of_a_color() -> None:
    """Of the six earlier cells two are red: a red cell gets 1/3 of it, a blue one 2/3."""
    model = ColorTracking(Constant(), 2, red_and_blue()).double()
    loss = model(painted([RED, BLUE, BLUE], [RED, BLUE, BLUE], [RED, RED, BLUE]))
    expected = (2 * math.log(3) + math.log(3 / 2)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_what_tells_cells_apart_copies_the_right_color() -> None:
    """Red is lighter than blue here, so that lightness alone finds the color of each cell."""
    frames = painted([RED, BLUE, BLUE], [BLUE, RED, BLUE], [BLUE, BLUE, RED])
    sharp = ColorTracking(Signed(), 1, red_and_blue(), temperature=1e-3).double()
    assert sharp(frames).item() == pytest.approx(0, abs=1e-9)


class Constant(nn.Module):
    def forward(self, lightness: Tensor) -> Tensor:
        return torch.ones_like(lightness).expand(-1, 2, -1, -1)


class Signed(nn.Module):
    """Red is above a lightness of 0.43, blue below."""

    def forward(self, lightness: Tensor) -> Tensor:
        return lightness - 0.43


def test_palette_is_of_the_colors_in_the_frames() -> None:
    found = red_and_blue()
    expected = rgb_to_lab(painted([RED, BLUE]))[0, 0, 1:, 0].T / 100
    order = expected[:, 0].argsort()
    torch.testing.assert_close(found[found[:, 0].argsort()], expected[order])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "ColorTracking: expected temperature to be positive"),
        ({"palette": torch.zeros(1, 2)}, r"palette to be \(K, 2\) with K at least 2, got \(1, 2\)"),
        ({"palette": torch.zeros(3, 3)}, r"expected palette to be .* got \(3, 3\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ColorTracking: expected frames .* at least 2 frames"):
        make()(torch.rand(2, 1, 3, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected frames to be of shape \(..., 3, H, W\)"):
        make()(torch.rand(2, 3, 1, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected encoder .* maps \(4, 3, ...\), got \(4, 1, 4"):
        ColorTracking(nn.Identity(), 3, COLORS)(torch.rand(2, 2, 3, 4, 4, dtype=torch.float64))
