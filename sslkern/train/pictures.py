"""Grids of images: what a method makes of those that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sslkern.train.plots import save

SHOWN = 12
"""Images of a row."""


def save_grid(rows: Mapping[str, Tensor], path: Path) -> None:
    """Write rows of images as a PNG.

    Args:
        rows: Name of the row -> images (N, 1, H, W), black where 1, or (N, 3, H, W), of which the
            first 12 are shown; values are cut to [0, 1]. Images of one size.
        path: The file; replaced if it exists.
    """
    width = min(SHOWN, max(len(images) for images in rows.values()))
    figure = Figure(figsize=(0.9 * width, 1.3 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(panels, rows.items(), strict=True):
        strip = side_by_side(images[:width].detach().float().clamp(0, 1))
        axes.imshow(strip.squeeze(2).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(name, loc="left", fontsize="medium")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
    save(figure, path)


def side_by_side(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as one, (H, N (W + 1) - 1, C), with columns of 0.5 between them."""
    padded = torch.nn.functional.pad(images, (0, 1), value=0.5)
    return padded.permute(2, 0, 3, 1).flatten(1, 2)[:, :-1]
