"""UVC on video."""

from typing import Any

from sslkern.data import Video
from sslkern.methods import UVC
from sslkern.train.correspondence import FrameEncoder, color_clips, correspondence_recipe


def build(samples: Video, **options: Any) -> UVC:
    encoder = FrameEncoder()
    return UVC(encoder, encoder.map_dim, **options)


RECIPE = correspondence_recipe(
    "UVC",
    build,
    batch=color_clips,
    options={"patch_size": 8, "temperature": 0.05, "adapt_region": False},
    quick=2,
)
