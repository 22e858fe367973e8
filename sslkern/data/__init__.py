"""Data for training that needs no download, and random views of it."""

from __future__ import annotations

from collections.abc import Callable

from sslkern.data.augment import AffineNoiseViews
from sslkern.data.bitext import Bitext, load_bitext
from sslkern.data.digits import load_digits
from sslkern.data.pairs import Pairs, load_pairs
from sslkern.data.photos import load_photos
from sslkern.data.samples import LabelledImages, Samples
from sslkern.data.signals import load_mnist1d
from sslkern.data.text import Text, Vocabulary, load_text
from sslkern.data.video import Video, load_video

__all__ = [
    "LOADERS",
    "AffineNoiseViews",
    "Bitext",
    "LabelledImages",
    "Pairs",
    "Samples",
    "Text",
    "Video",
    "Vocabulary",
    "load_bitext",
    "load_data",
    "load_digits",
    "load_mnist1d",
    "load_pairs",
    "load_photos",
    "load_text",
    "load_video",
]

LOADERS: dict[str, Callable[[], Samples]] = {
    "digits": load_digits,
    "photos": load_photos,
    "mnist1d": load_mnist1d,
    "text": load_text,
    "bitext": load_bitext,
    "video": load_video,
    "pairs": load_pairs,
}


def load_data(name: str) -> Samples:
    """Load one of `LOADERS` as it is by default.

    Raises:
        ValueError: If there is none of that name.
        ImportError: If the library that has it is not installed; says how to install it.

    Example:
        >>> len(load_data("digits"))
        1797
    """
    if name not in LOADERS:
        raise ValueError(f"expected data to be one of {', '.join(LOADERS)}, got {name!r}")
    try:
        return LOADERS[name]()
    except ImportError as error:
        raise ImportError(
            f"{error.name} does not import ({error}), and the data {name} needs it: "
            "pip install 'sslkern[train]'",
            name=error.name,
        ) from error
