"""PixPro on images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.data import LabelledImages
from sslkern.methods import PixPro
from sslkern.methods.parts.maps import cells
from sslkern.methods.pixpro import same_place
from sslkern.train.dense import dense_recipe, map_encoder, probe_maps
from sslkern.train.recipe import Evidence, Measures

SMALLEST_AREA = 0.4
NOISE = 0.1
MATCHED = 256


def build(
    samples: LabelledImages,
    hidden_dim: int,
    projection_dim: int,
    momentum: float,
    radius: float,
    sharpness: float,
) -> PixPro:
    encoder = map_encoder(samples)
    return PixPro(
        encoder,
        encoder.map_dim,
        hidden_dim=hidden_dim,
        projection_dim=projection_dim,
        momentum=momentum,
        radius=radius,
        sharpness=sharpness,
    )


def crops(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    images = samples.images[index]
    (view_a, crop_a), (view_b, crop_b) = (random_crop(images, generator) for _ in range(2))
    return view_a, view_b, crop_a, crop_b


def random_crop(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A square crop of each image with noise, and where it is: (B, 4), in shares of the sides."""
    draw = torch.rand((3, len(images)), dtype=images.dtype, generator=generator)
    side = (SMALLEST_AREA + (1 - SMALLEST_AREA) * draw[0]).sqrt()
    left, top = (1 - side) * draw[1:]
    zero = torch.zeros_like(side)
    rows = [[side, zero, 2 * left + side - 1], [zero, side, 2 * top + side - 1]]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    noise = torch.randn(images.shape, dtype=images.dtype, generator=generator)
    return views + NOISE * noise, torch.stack([left, top, left + side, top + side], 1)


@torch.no_grad()
def correspondence(method: PixPro, samples: LabelledImages, generator: torch.Generator) -> float:
    """How often the most similar cell of a second crop, of all images, shows the same place."""
    index = torch.arange(min(len(samples), MATCHED))
    view_a, view_b, crop_a, crop_b = crops(samples, index, generator)
    maps_a, maps_b = method.encoder(view_a), method.encoder(view_b)
    grid = (maps_a.shape[2], maps_a.shape[3])
    positive = same_place(crop_a, crop_b, grid, method.radius)
    rows_a, rows_b = (F.normalize(cells(maps), dim=2) for maps in (maps_a, maps_b))
    nearest = (rows_a.flatten(0, 1) @ rows_b.flatten(0, 1).T).argmax(1).view(len(index), -1)
    image, cell = nearest // positive.shape[2], nearest % positive.shape[2]
    same_image = image == index[:, None]
    found = positive.gather(2, cell[..., None])[..., 0] & same_image
    return float(found[positive.any(2)].double().mean())


def measure(
    method: PixPro, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    probes = probe_maps(method, train, test, generator)
    return probes | {"same_place": correspondence(method, test, generator)}


RECIPE = dense_recipe(
    "PixPro",
    build,
    data=("photos", "digits"),
    batch=crops,
    measure=measure,
    baselines={},
    options={
        "hidden_dim": 256,
        "projection_dim": 64,
        "momentum": 0.99,
        "radius": 0.7,
        "sharpness": 2.0,
    },
    evidence=Evidence("same_place", 0.15),
    quick=3,
)
