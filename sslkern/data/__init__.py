"""Data for training: scikit-learn's handwritten digits and random views of them."""

from sslkern.data.augment import AffineNoiseViews
from sslkern.data.digits import Digits, load_digits, split_half

__all__ = ["AffineNoiseViews", "Digits", "load_digits", "split_half"]
