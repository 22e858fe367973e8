"""Random views: their ranges, their generator, and what the parameters mean."""

from __future__ import annotations

import pytest
import torch

from sslkern.data import AffineNoiseViews, load_digits
from sslkern.data.augment import CropColorViews, SignalViews, random_view


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return load_digits().images[:72]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_keep_shape_dtype_and_range(images: torch.Tensor, dtype: torch.dtype) -> None:
    views = AffineNoiseViews()(images.to(dtype), generator())
    assert (views.shape, views.dtype) == (images.shape, dtype)
    assert views.min() >= 0
    assert views.max() <= 1
    assert not torch.equal(views, images.to(dtype))


def test_views_depend_on_the_generator_alone(images: torch.Tensor) -> None:
    views, source = AffineNoiseViews(), generator(7)
    state = source.get_state()
    first, second = views(images, source), views(images, source)
    torch.manual_seed(1)  # must not matter
    source.set_state(state)
    assert torch.equal(views(images, source), first)
    assert torch.equal(views(images, source), second)
    assert not torch.equal(first, second)


def test_views_with_empty_ranges_are_the_images(images: torch.Tensor) -> None:
    still = AffineNoiseViews(rotation=0, scale=1, shear=0, shift=0, contrast=0, noise=0)
    torch.testing.assert_close(still(images, generator()), images)


def centroids(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass (B, 2) in pixels, row and column."""
    mass = images.sum((1, 2, 3))
    rows = (images.sum((1, 3)) @ torch.arange(images.shape[2], dtype=images.dtype)) / mass
    columns = (images.sum((1, 2)) @ torch.arange(images.shape[3], dtype=images.dtype)) / mass
    return torch.stack([rows, columns], 1)


def test_shift_is_measured_in_pixels() -> None:
    spot = torch.zeros(500, 1, 12, 8, dtype=torch.float64)
    spot[:, :, 5:7, 3:5] = 1
    shift = AffineNoiseViews(rotation=0, scale=1, shear=0, shift=1.5, contrast=0, noise=0)
    moved = (centroids(shift(spot, generator())) - centroids(spot)).abs()
    assert (moved.max(0).values <= 1.5 + 1e-9).all()
    assert (moved.max(0).values > 1.4).all()


def test_rotation_keeps_distances_when_the_image_is_not_square() -> None:
    spot = torch.zeros(200, 1, 32, 16, dtype=torch.float64)
    spot[:, :, 15:17, 12:14] = 1  # five columns right of the centre
    turn = AffineNoiseViews(rotation=90, scale=1, shear=0, shift=0, contrast=0, noise=0)
    offset = centroids(turn(spot, generator())) - torch.tensor([15.5, 7.5])
    assert (offset.norm(dim=1) - 5).abs().max() < 0.1
    assert offset[:, 0].abs().max() > 4.5


SHAPES = [(6, 1, 8, 8), (6, 3, 16, 16), (6, 1, 40)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_of_image_has_views_of_its_own(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, dtype=torch.float64, generator=generator(1))
    views = random_view(images, generator())
    assert (views.shape, views.dtype) == (images.shape, images.dtype)
    assert torch.equal(views, random_view(images, generator()))
    assert not torch.equal(views, random_view(images, generator(1)))


def test_photographs_without_ranges_are_themselves_or_mirrored() -> None:
    still = CropColorViews(area=1, brightness=0, color=0, gray=0, noise=0)
    images = torch.rand(40, 3, 8, 8, dtype=torch.float64, generator=generator(1))
    views = still(images, generator())
    same = (views - images).abs().amax((1, 2, 3)) < 1e-9
    mirrored = (views - images.flip(3)).abs().amax((1, 2, 3)) < 1e-9
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_gray_photographs_have_equal_channels() -> None:
    gray = CropColorViews(color=0, gray=1, noise=0)
    views = gray(torch.rand(5, 3, 8, 8, generator=generator(1)), generator())
    torch.testing.assert_close(views[:, 0], views[:, 2])


def test_crops_show_a_part_of_the_photograph() -> None:
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(200, 3, 32, 32)
    crop = CropColorViews(area=0.25, brightness=0, color=0, gray=0, noise=0)
    span = crop(ramp, generator())[:, 0, 0].aminmax(dim=1)
    width = span.max - span.min
    assert (width > 0.45).all()  # a quarter of the area is half of the width
    assert width.min() < 0.6
    assert width.max() > 0.9


def test_signals_are_shifted_round_their_ends() -> None:
    signals = torch.zeros(300, 1, 40)
    signals[:, :, 0] = 1
    moved = SignalViews(shift=0.25, scale=0, noise=0)(signals, generator())
    places = moved[:, 0].argmax(1)
    assert torch.equal(moved.sum((1, 2)), torch.ones(300))
    assert set(places.tolist()) == {*range(11), *range(30, 40)}
