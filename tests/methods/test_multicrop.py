"""Crops through one encoder: how often it is called, with what, and what belongs to which crop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sslkern.methods.parts.multicrop import encode_crops


class Spy:
    """Encodes an image as its mean and its width, and remembers the shapes."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        width = images.new_full((len(images),), images.shape[-1])
        return torch.stack([images.mean((1, 2)), width], 1)


def numbered(*widths: int, batch: int = 2) -> list[Tensor]:
    """Crop i, sample n is full of 10 i + n."""
    return [
        torch.stack([torch.full((w, w), 10.0 * i + n) for n in range(batch)])
        for i, w in enumerate(widths)
    ]


@pytest.mark.parametrize(
    ("widths", "shapes"),
    [
        ((4,), [(2, 4, 4)]),
        ((4, 4, 3, 3, 3), [(4, 4, 4), (6, 3, 3)]),
        ((3, 4, 3, 5, 4), [(4, 3, 3), (4, 4, 4), (2, 5, 5)]),
    ],
)
def test_one_call_for_each_size(widths: tuple[int, ...], shapes: list[tuple[int, ...]]) -> None:
    spy = Spy()
    encoded = encode_crops(spy, numbered(*widths))
    assert spy.shapes == shapes
    assert [z.tolist() for z in encoded] == [
        [[10.0 * i + n, w] for n in range(2)] for i, w in enumerate(widths)
    ]


def test_sizes_of_equal_area_are_different() -> None:
    spy = Spy()
    encode_crops(spy, [torch.zeros(1, 2, 6), torch.zeros(1, 6, 2), torch.zeros(1, 3, 4)])
    assert spy.shapes == [(1, 2, 6), (1, 6, 2), (1, 3, 4)]


def test_gradients_reach_every_crop() -> None:
    crops = [c.requires_grad_() for c in numbered(2, 3, 2)]
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoded = encode_crops(encoder, crops)
    (encoded[0] + 2 * encoded[1] + 3 * encoded[2]).sum().backward()
    for crop, total in zip(crops, (1, 2, 3), strict=True):
        torch.testing.assert_close(crop.grad.sum((1, 2)), torch.full((2,), float(total)))


def test_batch_norm_sees_all_crops_of_a_size() -> None:
    norm = nn.BatchNorm1d(1, affine=False, eps=1e-12).double()
    crops = [torch.tensor([[x], [x + 1]], dtype=torch.float64) for x in (0.0, 2.0)]
    encoded = torch.cat(encode_crops(norm, crops)).flatten().tolist()
    scale = (5 / 4) ** 0.5  # the standard deviation of 0, 1, 2, 3
    assert encoded == pytest.approx([x / scale for x in (-1.5, -0.5, 0.5, 1.5)])


def test_maps_keep_their_shape() -> None:
    encoded = encode_crops(nn.Conv2d(1, 2, 3), [torch.zeros(3, 1, 5, 5), torch.zeros(3, 1, 4, 4)])
    assert [tuple(z.shape) for z in encoded] == [(3, 2, 3, 3), (3, 2, 2, 2)]


def test_no_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="sslkern::encode_crops: expected crops to be at least on"):
        encode_crops(Spy(), [])


def test_crops_are_batches_of_one_size() -> None:
    with pytest.raises(ValueError, match=r"crops\[1\] to be of batch size 2, as crops\[0\], got 3"):
        encode_crops(Spy(), [torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)])
    with pytest.raises(
        ValueError, match=r"crops\[0\] to be of at least one sample, got shape \(\)"
    ):
        encode_crops(Spy(), [torch.zeros(())])
    with pytest.raises(ValueError, match=r"crops\[0\] to be of at least one sample, got shape \(0"):
        encode_crops(Spy(), [torch.zeros(0, 4, 4)])
    with pytest.raises(TypeError, match=r"expected crops\[1\] to be a tensor, got list"):
        encode_crops(Spy(), [torch.zeros(2, 4, 4), [0.0]])


def test_the_encoder_returns_a_row_for_each_sample() -> None:
    crops = numbered(3, 3)
    with pytest.raises(ValueError, match=r"returns to be of 4 rows, as its input, got shape \(3,"):
        encode_crops(lambda x: x[1:], crops)
    with pytest.raises(ValueError, match=r"returns to be of 4 rows, as its input, got shape \(\)"):
        encode_crops(lambda x: x.sum(), crops)
    with pytest.raises(TypeError, match="what the encoder returns to be a tensor, got tuple"):
        encode_crops(lambda x: (x, x), crops)
