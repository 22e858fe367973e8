"""Data for training that needs no download, and random views of it."""

from sslkern.data.augment import AffineNoiseViews
from sslkern.data.digits import load_digits
from sslkern.data.samples import LabelledImages, Samples

__all__ = ["AffineNoiseViews", "LabelledImages", "Samples", "load_digits"]
