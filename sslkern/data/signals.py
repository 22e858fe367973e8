"""MNIST-1D: ten shapes as short signals, made on the spot by the package of that name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sslkern.data.samples import LabelledImages


def load_mnist1d(samples: int = 5000) -> LabelledImages:
    """Make signals (N, 1, 40), float32, of mean 0 and variance 1 over the whole set.

    The package's seed decides them, and they are in random order.

    Args:
        samples: N, a multiple of 10: as many of each class.

    Raises:
        ImportError: If mnist1d is not installed.

    Example:
        >>> load_mnist1d(samples=20).images.shape
        torch.Size([20, 1, 40])

    Source: Greydanus & Kobak, 2024, https://arxiv.org/abs/2011.14439.
    """
    import numpy as np

    # get_dataset() of the same module would look for a download first.
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples = samples
    with _global_generators_kept():
        made = make_dataset(arguments)
    signals = torch.from_numpy(np.concatenate([made["x"], made["x_test"]])).float()
    labels = torch.from_numpy(np.concatenate([made["y"], made["y_test"]])).long()
    return LabelledImages(signals[:, None], labels, tuple("0123456789"))


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Undo what happens to the states of Python's and NumPy's generators, which mnist1d seeds."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
