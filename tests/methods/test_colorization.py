"""Colorization beside its formula, and the colours that it counts in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import Colorization
from sslkern.methods.colorization import color_bins, color_counts, rebalancing
from sslkern.methods.parts.colors import lab_to_rgb, rgb_to_lab

SIZE = 40.0
LAB = {  # of sRGB under D65
    (1, 1, 1): (100.0, 0.0, 0.0),
    (1, 0, 0): (53.24, 80.09, 67.20),
    (0, 1, 0): (87.73, -86.18, 83.18),
    (0, 0, 1): (32.30, 79.19, -107.86),
    (0, 0, 0): (0.0, 0.0, 0.0),
}


def make(encoder: nn.Module | None = None, **options: Any) -> Colorization:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()]
    settings = {"bin_size": SIZE, **options}
    return Colorization(encoder or nn.Sequential(*layers), 6, **settings).double()


def batch(seed: int = 0, size: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, 4, 6, dtype=torch.float64, generator=generator)


def plain_loss(m: Colorization, pictures: Tensor) -> Tensor:
    lab = rgb_to_lab(pictures)
    scores = m.head(m.encoder(lab[:, :1] / 100))
    total, weights = torch.zeros(()).double(), 0.0
    for i in range(len(pictures)):
        for r in range(2):
            for c in range(3):
                color = lab[i, 1:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2))
                square = (m.bins - color).square().sum(1)
                nearest = square.argsort()[:5]
                share = (-square[nearest] / (2 * 20.0**2)).exp()
                logs = scores[i, :, r, c].log_softmax(0)[nearest]
                weight = float(m.weights[nearest[0]])
                total = total - weight * (share / share.sum() * logs).sum()
                weights += weight
    return total / weights


@pytest.mark.parametrize("weighted", [True, False])
def test_steps_equal_the_formula(weighted: bool) -> None:
    counts = color_counts(batch(9), SIZE) if weighted else None
    model = make(counts=counts)
    check_steps(model, plain_loss, [(batch(i),) for i in range(3)])


def test_equal_scores_cost_the_logarithm_of_the_bins() -> None:
    model = make(counts=color_counts(batch(9), SIZE))
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert model(batch()).item() == pytest.approx(math.log(len(model.bins)), rel=1e-9)


@pytest.mark.parametrize(("rgb", "lab"), LAB.items())
def test_known_colors(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    color = torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)
    assert rgb_to_lab(color).flatten().tolist() == pytest.approx(lab, abs=0.02)


def test_lab_goes_back_to_rgb() -> None:
    colors = torch.cat([batch(), batch(1) / 50])  # some of them below the knees
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(colors)), colors, rtol=0, atol=1e-9)


def test_bins_are_where_colors_are() -> None:
    bins = color_bins(10.0)
    assert torch.equal(bins / 10, (bins / 10).round())
    assert len(bins.unique(dim=0)) == len(bins)
    plane = rgb_to_lab(batch(size=50))[:, 1:].permute(0, 2, 3, 1).reshape(-1, 2)
    # Half of a diagonal, and a little where a square touches the colours with a corner.
    assert torch.cdist(plane, bins).amin(1).max() < 8.0


def test_counts_are_of_the_nearest_bin() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    counts = color_counts(red, 20.0)
    assert counts.sum() == 32
    assert color_bins(20.0)[counts.argmax()].tolist() == [80.0, 60.0]
    assert counts.max() == 32


def test_rare_colors_weigh_more() -> None:
    bins = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], dtype=torch.float64)
    counts = torch.tensor([6, 2, 0])
    weights = rebalancing(bins, counts, sigma=1.0, mix=0.5)
    plain = 1 / (0.5 * torch.tensor([0.75, 0.25, 0.0]).double() + 0.5 / 3)
    plain = plain / (0.75 * plain[0] + 0.25 * plain[1])
    torch.testing.assert_close(weights, plain, rtol=1e-9, atol=0)
    assert torch.equal(rebalancing(bins, counts, 1.0, mix=1.0), torch.ones(3).double())


def test_colorized_picture_keeps_its_lightness() -> None:
    model = make().eval()
    gray = batch()[:, :1].expand(-1, 3, -1, -1)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        nearest = model.bins.square().sum(1).argmin()  # the bin of no colour
        model.head.bias[nearest] = 100.0
    assert model.bins[nearest].tolist() == [0.0, 0.0]
    torch.testing.assert_close(model.colorize(gray), gray, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin_size": 0.0}, "Colorization: expected bin_size to be positive"),
        ({"counts": torch.ones(3)}, r"expected counts to be of shape \(\d+,\), got shape \(3,\)"),
        ({"counts": torch.zeros(len(color_bins(SIZE)))}, "counts to be not negative and not all"),
        ({"counts": torch.ones(len(color_bins(SIZE))), "mix": 0.0}, "mix to be above 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pictures .* \(B, 3, H, W\).*got shape \(3, 1, 4, 6\)"):
        make()(batch()[:, :1])
    with pytest.raises(ValueError, match=r"expected encoder .* maps \(3, 6, \.\.\.\), got"):
        make(nn.Conv2d(1, 5, 1))(batch())
    with pytest.raises(ValueError, match="temperature to be positive"):
        make().colorize(batch(), temperature=0.0)
