"""UVC on video."""

from sslkern.data import Video
from sslkern.methods import UVC
from sslkern.train.correspondence import FrameEncoder, color_clips, correspondence_recipe


def build(samples: Video, patch_size: int, temperature: float) -> UVC:
    encoder = FrameEncoder()
    return UVC(encoder, encoder.map_dim, patch_size=patch_size, temperature=temperature)


RECIPE = correspondence_recipe(
    "UVC",
    build,
    batch=color_clips,
    options={"patch_size": 8, "temperature": 0.05},
    quick=2,
)
