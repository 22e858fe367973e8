"""Colors beside published values."""

from __future__ import annotations

import pytest
import torch

from sslkern.methods.parts.color import rgb_to_lab, split_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((1.0, 1.0, 0.0), (97.14, -21.55, 94.48)),
        ((0.5, 0.5, 0.5), (53.39, 0.0, 0.0)),
    ],
)
def test_named_colors(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    """Lindbloom's calculator."""
    image = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 2, 5)
    expected = torch.tensor(lab, dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 2, 5)
    torch.testing.assert_close(rgb_to_lab(image), expected, rtol=0, atol=0.02)


def test_gradient_is_finite_at_black() -> None:
    image = torch.zeros(3, 1, 1, requires_grad=True)
    rgb_to_lab(image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_split_separates_lightness() -> None:
    frames = torch.rand(2, 3, 3, 4, 4)
    lightness, color = split_lab(frames)
    assert (lightness.shape, color.shape) == ((2, 3, 1, 4, 4), (2, 3, 2, 4, 4))
    torch.testing.assert_close(torch.cat([lightness, color], 2), rgb_to_lab(frames) / 100)


def test_images_need_three_channels() -> None:
    with pytest.raises(ValueError, match="rgb_to_lab: expected images to be of shape"):
        rgb_to_lab(torch.rand(2, 1, 4, 4))
