"""UVC beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clips import clip_batches, small_map_encoder
from steps import check_steps, unit
from torch import Tensor, nn

from sslkern.methods import UVC
from sslkern.methods.parts.colors import rgb_to_lab

SIDE, PATCH, WINDOW = 6, 4, 2  # cells of a frame, a patch and a window
WEIGHTS = {"color": 0.9, "orthogonal": 0.4, "concentration": 0.3, "coordinate": 0.7}


def make(**options: Any) -> UVC:
    torch.manual_seed(0)
    settings = {"patch_size": PATCH, "window": WINDOW, "temperature": 0.3, "weights": WEIGHTS}
    return UVC(small_map_encoder(channels=1), 6, **{**settings, **options}).double()


def grid(side: int) -> Tensor:
    """Places x, y of the cells, (side, side, 2)."""
    line = torch.tensor([(2 * i + 1) / side - 1 for i in range(side)], dtype=torch.float64)
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side)], 2)


def colors_at(picture: Tensor, center: Tensor, half: Tensor, side: int) -> Tensor:
    """Of a square of a picture (H, W, C): (side, side, C), between its pixels."""
    points = (grid(side) * half + center)[None]
    return nn.functional.grid_sample(picture.movedim(2, 0)[None], points, align_corners=False)[
        0
    ].movedim(0, 2)


def plain_loss(m: UVC, frames: Tensor) -> Tensor:
    columns, rows = (torch.randint(SIDE - PATCH + 1, (len(frames),)).tolist() for _ in range(2))
    losses = []
    for clip, row, column in zip(frames, rows, columns, strict=True):
        lab = [rgb_to_lab(frame) / 100 for frame in (clip[0], clip[-1])]
        first, last = (unit(m.encoder(x[None, :1])[0].movedim(0, 2)) for x in lab)
        codes = pictures = [nn.functional.avg_pool2d(x, 2).movedim(0, 2) for x in lab]
        side = PATCH
        if m.color_encoder is not None:
            codes = [m.color_encoder(x[None])[0].movedim(0, 2) for x in lab]
            pictures, side = [x.movedim(0, 2) for x in lab], 2 * PATCH

        def decoded(cells: Tensor) -> Tensor:
            maps = cells.T.reshape(1, -1, PATCH, PATCH)
            if m.color_decoder is not None:
                maps = m.color_decoder(maps)
            return maps[0].movedim(0, 2)

        square = slice(row, row + PATCH), slice(column, column + PATCH)
        f, c = first[square].flatten(0, 1), codes[0][square].flatten(0, 1)
        affinity = (f @ last.flatten(0, 1).T / m.temperature).softmax(1)
        expected = affinity @ grid(SIDE).flatten(0, 1)
        center, half = expected.mean(0), torch.full((2,), PATCH / SIDE, dtype=torch.float64)
        if m.adapt_region:
            half = 2 * (expected - center).abs().mean(0).detach()
            assert (half > 1 / SIDE).all()
            assert (half < 1).all()
        center = torch.minimum(torch.maximum(center, half - 1), 1 - half)
        region = colors_at(torch.cat([last, codes[1]], 2), center, half, PATCH).flatten(0, 1)
        f_region, c_region = unit(region[:, :6]), region[:, 6:]
        logits = f @ f_region.T / m.temperature
        on, back = logits.softmax(0), logits.softmax(1)
        place = grid(PATCH).flatten(0, 1)
        carried, returned = on.T @ place, back @ place
        spread = 0
        for moved in (carried, returned):
            cells = moved.reshape(PATCH, PATCH, 2)
            for r in range(0, PATCH, WINDOW):
                for k in range(0, PATCH, WINDOW):
                    window = cells[r : r + WINDOW, k : k + WINDOW].flatten(0, 1)
                    spread = spread + (window - window.mean(0)).square().sum() / PATCH**2
        scale = len(pictures[0]) // SIDE
        here = pictures[0][
            scale * row : scale * (row + PATCH), scale * column : scale * (column + PATCH)
        ]
        there = colors_at(pictures[1], center, half, side)
        weights = torch.tensor(m.channel_weights, dtype=torch.float64)
        losses.append(
            0.9 * ((decoded(on.T @ c) - there).abs() * weights).mean()
            + 0.4 * ((decoded(on @ c_region) - here).abs() * weights).mean()
            + 0.7 * (back @ carried - place).abs().mean()
            + 0.3 * spread
        )
    return torch.stack(losses).mean()


def color_coders() -> dict[str, nn.Module]:
    """Of four channels, half as large as frames."""
    torch.manual_seed(1)
    return {
        "color_encoder": nn.Conv2d(3, 4, 2, stride=2),
        "color_decoder": nn.ConvTranspose2d(4, 3, 2, stride=2),
    }


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("adapt_region", [False, True])
def test_steps_equal_the_formula(coded: bool, adapt_region: bool) -> None:
    coders = color_coders() if coded else {}
    options = {"adapt_region": True, "temperature": 0.0015} if adapt_region else {}
    model = make(channel_weights=(1.0, 10.0, 5.0), **options, **coders)
    check_steps(model, plain_loss, clip_batches(size=2 * SIDE))


def test_region_grows_with_where_its_cells_expect_themselves() -> None:
    """A patch of four cells whose likes stand twice as far apart in the other frame."""
    maps = torch.zeros(1, 5, 8, 8, dtype=torch.float64)
    maps[0, 4] = 1
    for channel, (row, column) in enumerate([(2, 2), (2, 4), (4, 2), (4, 4)]):
        maps[0, :, row, column] = torch.eye(5, dtype=torch.float64)[channel]
    patch = torch.eye(5, dtype=torch.float64)[:4].T.reshape(1, 5, 2, 2)
    model = UVC(nn.Identity(), 5, patch_size=2, window=2, temperature=1e-3, adapt_region=True)
    found = model._locate(patch, maps)
    torch.testing.assert_close(found.center, torch.full((1, 2), -1 / 8, dtype=torch.float64))
    torch.testing.assert_close(found.half, torch.full((1, 2), 1 / 2, dtype=torch.float64))


def test_half_weights() -> None:
    model = make(**color_coders()).bfloat16()
    loss = model(clip_batches(size=2 * SIDE)[0][0].bfloat16())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class Distinct(nn.Module):
    """Each cell a feature of its own, the same in all frames."""

    def forward(self, lightness: Tensor) -> Tensor:
        cells = lightness.shape[2] * lightness.shape[3]
        features = torch.eye(cells, dtype=lightness.dtype)
        return features.reshape(1, cells, *lightness.shape[2:]).expand(len(lightness), -1, -1, -1)


def still(**weights: float) -> float:
    """Loss of two equal frames of 4 x 4 cells, by perfect matches."""
    frame = torch.rand(2, 1, 3, 4, 4, dtype=torch.float64).expand(-1, 2, -1, -1, -1)
    weights = {**dict.fromkeys(WEIGHTS, 0.0), **weights}
    model = UVC(Distinct(), 16, patch_size=2, window=2, temperature=1e-3, weights=weights)
    return model.double()(frame).item()


@pytest.mark.parametrize("name", ["color", "orthogonal", "coordinate"])
def test_perfect_matches_cost_nothing(name: str) -> None:
    assert still(**{name: 1.0}) == pytest.approx(0, abs=1e-9)


def test_concentration_of_perfect_matches_is_that_of_the_window() -> None:
    """Four cells at (+-1/2, +-1/2), of which each is 1/2 squared from the mean, both ways."""
    assert still(concentration=1.0) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "UVC: expected temperature to be positive"),
        ({"window": 3}, "UVC: expected window to be a divisor of patch_size, 4, got 3"),
        ({"patch_size": 0}, "expected patch_size to be positive"),
        ({"weights": {"colour": 1.0}}, "expected weights to be of color, orthogonal"),
        ({"channel_weights": (1.0, 1.0)}, "expected channel_weights to be of L, a and b, got 2"),
        ({"channel_weights": (1.0, 1.0, -1.0)}, "expected a channel's weight to be finite and not"),
        ({"color_encoder": nn.Identity()}, "expected color_encoder to be given together with"),
        ({"color_decoder": nn.Identity()}, "expected color_encoder to be given together with"),
        ({"weights": {"color": -1.0}}, "expected the weight color to be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UVC: expected frames .* at least 2 frames"):
        make()(torch.rand(2, 1, 3, 12, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"UVC: expected frames to be of shape \(..., 3, H, W\)"):
        make()(torch.rand(2, 2, 1, 12, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"maps of at least 4 cells a side, got \(4, 6, 3, 3\)"):
        make()(torch.rand(2, 2, 3, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("color_encoder", r"expected color_encoder .* maps \(4, C, 6, 6\), got \(4, 3, 12, 12\)"),
        ("color_decoder", r"expected color_decoder .* colors \(2, 3, ...\), got \(2, 4, 4, 4\)"),
    ],
)
def test_coders_of_other_shapes_are_refused(wrong: str, message: str) -> None:
    model = make(**{**color_coders(), wrong: nn.Identity()})
    with pytest.raises(ValueError, match=message):
        model(torch.rand(2, 2, 3, 12, 12, dtype=torch.float64))
