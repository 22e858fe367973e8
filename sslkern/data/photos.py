"""Crops of the colour pictures that come with scikit-learn and scikit-image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.data.samples import LabelledImages

# What scikit-image has in its wheel; its other pictures it would download.
_SKIMAGE = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
_SHORT_SIDE = 96


def load_photos(size: int = 32, crops: int = 2000, seed: int = 0) -> LabelledImages:
    """Cut random squares out of ten pictures; the label says which picture a square is from.

    The pictures are scaled down first, to 96 pixels along the shorter side, so that a square shows
    more than a texture. Squares of one picture overlap: a test half is easier than new pictures.

    Args:
        size: Height and width, from 1 to 96.
        crops: N; square i is cut out of picture i modulo 10.
        seed: Decides where.

    Returns:
        images (N, 3, size, size), float32 in [0, 1]; labels (N,) int64.

    Raises:
        ImportError: If scikit-learn or scikit-image is not installed.

    Example:
        >>> photos = load_photos(crops=20)
        >>> photos.images.shape, photos.classes[photos.labels[11]]
        (torch.Size([20, 3, 32, 32]), 'flower')

    Source: https://scikit-learn.org/stable/datasets/loading_other_datasets.html and
    https://scikit-image.org/docs/stable/api/skimage.data.html, as packed in the two libraries.
    """
    generator = torch.Generator().manual_seed(seed)
    photos = _pictures()
    labels = torch.arange(crops) % len(photos)
    images = torch.empty(crops, 3, size, size)
    for label, photo in enumerate(photos.values()):
        here = labels == label
        images[here] = _squares(_small(photo), size, int(here.sum()), generator)
    return LabelledImages(images, labels, tuple(photos))


def _pictures() -> dict[str, Any]:
    """Arrays (H, W, 3) uint8 by name."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photos = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    photos |= {name: getattr(data, name)() for name in _SKIMAGE}
    return photos | {"motorcycle": data.stereo_motorcycle()[0]}  # type: ignore[no-untyped-call]


def _small(photo: Any) -> Tensor:
    """Scale an array (H, W, 3) uint8 to (3, h, w) in [0, 1], where the shorter side is 96."""
    image = torch.tensor(photo).permute(2, 0, 1)[None].float() / 255
    scale = _SHORT_SIDE / min(image.shape[2:])
    sides = [round(side * scale) for side in image.shape[2:]]
    return F.interpolate(image, sides, mode="bilinear", antialias=True)[0].clamp_(0, 1)


def _squares(photo: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Cut (count, 3, size, size) out of (3, h, w), every place as likely as any other."""
    windows = photo.unfold(1, size, 1).unfold(2, size, 1)
    rows, columns = (
        torch.randint(places, (count,), generator=generator) for places in windows.shape[1:3]
    )
    return windows[:, rows, columns].transpose(0, 1)
