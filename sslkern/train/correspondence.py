"""What recipes of correspondence in video share: an encoder, propagation of masks, its scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.data import Video
from sslkern.methods import Method
from sslkern.methods.parts.clips import split_lab
from sslkern.train.pictures import save_grid
from sslkern.train.recipe import Evidence, Measures, Recipe

LENGTH = 4
"""Frames of the clips that are trained on."""
STRIDE = 2
"""Of the encoder's maps."""
MEMORY = 3
"""Earlier frames, besides the first, that masks are taken from."""
NEIGHBOURS = 5
RADIUS = 4
"""Cells that something may move away, along each axis, from a frame to one that shows it."""
TEMPERATURE = 0.05
CLIPS = 64
"""Clips of the test half that are scored."""
CHUNK = 32
SHOWN = 2
"""Clips that are drawn."""


class FrameEncoder(nn.Module):
    """Frames (B, C, H, W) -> maps (B, map_dim, H / 2, W / 2): three convolutions of 3 pixels.

    Each but the last has a group norm behind it, so that a model that was never trained is no worse
    for want of running statistics. What a cell knows is 11 pixels wide.

    Args:
        channels: Of a frame.
        map_dim: Channels of the maps.
        width: Channels in between.
    """

    def __init__(self, channels: int = 1, map_dim: int = 32, width: int = 32) -> None:
        super().__init__()
        self.map_dim = map_dim
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, stride=STRIDE, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, map_dim, 3, padding=1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, C, H, W) to maps (B, map_dim, H / 2, W / 2)."""
        maps: Tensor = self.layers(frames)
        return maps


def propagate(
    features: Tensor,
    first: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    radius: int = RADIUS,
    temperature: float = TEMPERATURE,
    memory: int = MEMORY,
) -> Tensor:
    """Carry the labels of the first frame to the later ones, by attention over their features.

    A cell takes the labels of the ``neighbours`` most similar cells of the first frame and of the
    ``memory`` frames before it, within ``radius`` cells along each axis, weighted by the softmax of
    their cosines over the temperature.

    Args:
        features: Maps (B, T, D, h, w) of the frames of B clips.
        first: (B, L, h, w), how much of each label the cells of the first frame have.
        neighbours: As above.
        radius: As above.
        temperature: As above.
        memory: As above.

    Returns:
        (B, T, L, h, w), that of the first frame as given.

    Source: Jabri, Owens, Efros, "Space-Time Correspondence as a Contrastive Random Walk", 2020,
    https://arxiv.org/abs/2006.14613 (section 3.1), with the radius of its code.
    """
    height, width = features.shape[-2:]
    rows = F.normalize(features.flatten(3), dim=2)  # (B, T, D, S)
    far = ~near(height, width, radius)
    labels = [first.flatten(2)]  # (B, L, S)
    for t in range(1, features.shape[1]):
        sources = sorted({0, *range(max(0, t - memory), t)})
        similar = torch.cat([rows[:, s].transpose(1, 2) @ rows[:, t] for s in sources], 1)
        similar = similar.masked_fill(far.repeat(len(sources), 1), -torch.inf)
        best, place = similar.topk(neighbours, dim=1)  # (B, neighbours, S)
        weight = torch.zeros_like(similar).scatter(1, place, (best / temperature).softmax(1))
        labels.append(torch.cat([labels[s] for s in sources], 2) @ weight)
    return torch.stack(labels, 1).view(*features.shape[:2], -1, height, width)


def near(height: int, width: int, radius: int) -> Tensor:
    """Which cells of a map lie within a radius of which, (S, S) bool."""
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    return (place[:, None] - place).abs().amax(2) <= radius


def track(encode: Callable[[Tensor], Tensor], video: Video) -> Tensor:
    """Masks (N, T, H, W) int64 of all frames, given only the first one.

    Args:
        encode: Gray frames (B, 1, H, W) -> maps (B, D, h, w).
        video: Clips and their true masks.
    """
    found = []
    for clips in torch.split(torch.arange(len(video)), CHUNK):
        frames, masks = video.frames[clips], video.masks[clips]
        maps = encode(gray(frames).flatten(0, 1))
        maps = maps.view(*frames.shape[:2], *maps.shape[1:])
        first = F.one_hot(masks[:, 0], video.labels.shape[1] + 1).movedim(-1, 1)
        first = F.interpolate(first.to(maps.dtype), maps.shape[-2:], mode="area")
        carried = propagate(maps, first).flatten(0, 1)
        full = F.interpolate(carried, frames.shape[-2:], mode="bilinear", align_corners=False)
        found.append(full.argmax(1).view_as(masks))
    return torch.cat(found)


def score(found: Tensor, video: Video) -> Measures:
    """How well masks (N, T, H, W) fit the true ones in all frames but the first.

    ``iou`` is intersection over union, the mean over the digits of all frames that show them;
    ``recall`` the share of the digits' pixels with the right label.
    """
    found, true = found[:, 1:], video.masks[:, 1:]
    ratios = []
    for digit in range(1, video.labels.shape[1] + 1):
        here, there = found == digit, true == digit
        ratio = (here & there).sum((2, 3)) / (here | there).sum((2, 3))
        ratios.append(ratio[there.any(3).any(2)])
    recall = (found == true)[true > 0].double().mean()
    return {"iou": torch.cat(ratios).mean().item(), "recall": recall.item()}


def some(video: Video) -> Video:
    """The clips that are scored."""
    return video.take(torch.arange(min(CLIPS, len(video))))


def measure_tracking(
    method: Method, train: Video, test: Video, generator: torch.Generator
) -> Measures:
    """Scores of masks that are propagated by the encoder's features."""
    return score(track(maps_of(method), some(test)), some(test))


def maps_of(method: Method) -> nn.Module:
    """What makes the maps: the encoder, or that part of one for patches."""
    encoder = method.encoder
    return encoder if isinstance(encoder, FrameEncoder) else encoder.get_submodule("maps")


def copy_first(train: Video, test: Video, generator: torch.Generator) -> Measures:
    """The same of the first mask, left where it is."""
    masks = some(test).masks
    return score(masks[:, :1].expand_as(masks), some(test))


def track_true(train: Video, test: Video, generator: torch.Generator) -> Measures:
    """The same of the true masks at the resolution of the maps: as good as masks can be there."""
    video = some(test)
    true = F.one_hot(video.masks, video.labels.shape[1] + 1).movedim(-1, 2)
    coarse = F.avg_pool2d(true.flatten(0, 1).to(video.frames.dtype), STRIDE)
    full = F.interpolate(coarse, scale_factor=float(STRIDE), mode="bilinear")
    return score(full.argmax(1).view_as(video.masks), video)


def gray(frames: Tensor) -> Tensor:
    """Lightness (..., 1, H, W) of frames (..., 3, H, W)."""
    return split_lab(frames, "gray")[0]


def gray_clips(samples: Video, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    """Windows of the clips without their colors, by which raw pixels would tell digits apart."""
    return (gray(windows(samples, index, generator)),)


def color_clips(samples: Video, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    """Windows of the clips with their colors, for methods that learn from these."""
    return (windows(samples, index, generator),)


def windows(samples: Video, index: Tensor, generator: torch.Generator) -> Tensor:
    """Frames (B, 4, 3, H, W) of the clips, all from one random moment on."""
    last = samples.frames.shape[1] - LENGTH
    start = int(torch.randint(last + 1, (), generator=generator))
    return samples.frames[index, start : start + LENGTH]


def draw_masks(method: Method, train: Video, test: Video, folder: Path) -> None:
    """A PNG of clips with the propagated masks and with the true ones."""
    video = test.take(torch.arange(min(SHOWN, len(test))))
    found = track(maps_of(method), video)
    rows = {
        "gray": gray(video.frames).expand_as(video.frames),
        "propagated": paint(video, found),
        "true": paint(video, video.masks),
    }
    save_grid({name: row.flatten(0, 1) for name, row in rows.items()}, folder / "masks.png")


def paint(video: Video, masks: Tensor) -> Tensor:
    """Frames (N, T, 3, H, W) whose pixels have the colors of their masks."""
    palette = torch.from_numpy(colormaps["tab10"](range(10))[:, :3]).to(video.frames.dtype)
    color = palette[masks - 1].movedim(-1, 2)
    return torch.where((masks > 0)[:, :, None], color, gray(video.frames))


def correspondence_recipe(title: str, build: Any, **settings: Any) -> Recipe:
    """A recipe of gray clips, scored by the masks that the encoder's features propagate.

    Args:
        title: The method's name.
        build: As `Recipe.build`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """
    common = {
        "data": ("video",),
        "batch": gray_clips,
        "measure": measure_tracking,
        "evidence": Evidence("iou", 0.1),
        "baselines": {"first mask": copy_first, "true masks, coarse": track_true},
        "pictures": draw_masks,
        "batch_size": 4,
        "epochs": 10,
        "quick": 1,
        "lr": 1e-2,
    }
    return Recipe(title, build=build, **{**common, **settings})
