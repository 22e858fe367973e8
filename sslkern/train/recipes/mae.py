"""MAE on images, with a small transformer."""

from pathlib import Path

import torch
from torch import Tensor, nn

from sslkern.data import LabelledImages
from sslkern.methods import MAE
from sslkern.methods.parts.patches import patchify, take_tokens, unpatchify
from sslkern.train.images import probe_features, probe_pixels
from sslkern.train.pictures import SHOWN, save_grid
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed
from sslkern.train.tokens import TokenEncoder

MEAN, DEVIATION = 0.3, 0.37
"""Of the pixels of digits. Beside the positions, images that are not standardized say little."""


def build(
    samples: LabelledImages, mask_ratio: float, normalize: bool, dim: int, decoder_dim: int
) -> MAE:
    channels, height, width = samples.images.shape[1:]
    return MAE(
        TokenEncoder(dim),
        (channels, height, width),
        dim,
        patch_size=max(2, height // 8),
        mask_ratio=mask_ratio,
        decoder_dim=decoder_dim,
        decoder_depth=1,
        decoder_heads=4,
        normalize_targets=normalize,
    )


def standardize(images: Tensor) -> Tensor:
    return (images - MEAN) / DEVIATION


def images(samples: LabelledImages, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    return (standardize(samples.images[index]),)


class Features(nn.Module):
    """Images -> mean over the tokens of all patches."""

    def __init__(self, model: MAE) -> None:
        super().__init__()
        self.layers = nn.Sequential(model.embed, model.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, D)."""
        tokens: Tensor = self.layers(standardize(images))
        return tokens[:, 1:].mean(1)


def measure(
    model: MAE, train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    return probe_features(Features(model), train, test, generator)


def pictures(model: MAE, train: LabelledImages, test: LabelledImages, folder: Path) -> None:
    shown = test.images[:SHOWN]
    with global_seed(0):
        keep = model.draw(shown)
    size, shape = model.embed.patch_size, model.embed.shape
    patches = patchify(shown, size)
    places = keep[..., None].expand(-1, -1, patches.shape[2])
    visible = torch.zeros_like(patches).scatter(1, places, take_tokens(patches, keep))
    rows = {
        "seen": unpatchify(visible, size, shape),
        "predicted": MEAN + DEVIATION * model.reconstruct(standardize(shown), keep),
        "image": shown,
    }
    save_grid(rows, folder / "reconstructions.png")


RECIPE = Recipe(
    "MAE",
    data=("digits", "photos"),
    build=build,
    batch=images,
    measure=measure,
    evidence=Evidence("knn", 0.08),
    options={"mask_ratio": 0.75, "normalize": True, "dim": 64, "decoder_dim": 32},
    baselines={"pixels": probe_pixels},
    quick=24,
    epochs=200,
    batch_size=32,
    pictures=pictures,
)
