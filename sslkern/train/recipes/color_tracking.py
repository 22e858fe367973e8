"""Tracking by colors, on video."""

from torch.nn import functional as F

from sslkern.data import Video
from sslkern.methods import ColorTracking
from sslkern.methods.color_tracking import color_palette
from sslkern.train.correspondence import (
    STRIDE,
    FrameEncoder,
    color_clips,
    correspondence_recipe,
)

CLUSTERED = 64
"""Clips whose colors are clustered."""


def build(samples: Video, colors: int, temperature: float) -> ColorTracking:
    encoder = FrameEncoder()
    frames = F.avg_pool2d(samples.frames[:CLUSTERED].flatten(0, 1), STRIDE)
    palette = color_palette(frames, colors)
    return ColorTracking(encoder, encoder.map_dim, palette, temperature=temperature)


RECIPE = correspondence_recipe(
    "Tracking by colors",
    build,
    batch=color_clips,
    options={"colors": 16, "temperature": 1.0},
    quick=2,
)
