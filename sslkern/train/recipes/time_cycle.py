"""Time cycle on video."""

from sslkern.data import Video
from sslkern.methods import TimeCycle
from sslkern.methods.time_cycle import ExpectedShift
from sslkern.train.correspondence import STRIDE, FrameEncoder, correspondence_recipe
from sslkern.train.recipe import Evidence


def build(
    samples: Video, patch_size: int, temperature: float, cycle_weight: float, own_weight: float
) -> TimeCycle:
    height, width = samples.frames.shape[3:]
    encoder, size = FrameEncoder(), (height // STRIDE, width // STRIDE)
    return TimeCycle(
        encoder,
        encoder.map_dim,
        size,
        patch_size,
        localizer=ExpectedShift(size, patch_size),
        temperature=temperature,
        cycle_weight=cycle_weight,
        own_weight=own_weight,
    )


RECIPE = correspondence_recipe(
    "Time cycle",
    build,
    options={"patch_size": 8, "temperature": 0.05, "cycle_weight": 0.02, "own_weight": 1.0},
    evidence=Evidence("iou", 0.08),
    quick=2,
)
