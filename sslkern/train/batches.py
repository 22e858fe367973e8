"""Shuffled batches of positive pairs whose whole random state can be saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.data.augment import AffineNoiseViews


class PairStream:
    """Endless pairs of random views, epoch after epoch.

    Each epoch shuffles the images and leaves out the last ``N % batch_size`` of that order, so that
    every batch has the same number of negatives.

    Args:
        images: (N, C, H, W) in the dtype of the views.
        batch_size: B, from 2 to N.
        generator: Decides order and views, and is part of the state.
    """

    def __init__(self, images: Tensor, batch_size: int, generator: torch.Generator) -> None:
        """Begin before the first epoch."""
        self.steps_per_epoch = len(images) // batch_size
        self._images = images
        self._batch_size = batch_size
        self._generator = generator
        self._views = AffineNoiseViews()
        self._order = torch.empty(0, dtype=torch.long)  # what is left of this epoch

    def next_pair(self) -> tuple[Tensor, Tensor]:
        """Return two views (B, C, H, W) of the next B images."""
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(len(self._images), generator=self._generator)
        index, self._order = self._order.tensor_split([self._batch_size])
        images = self._images[index]
        return self._views(images, self._generator), self._views(images, self._generator)

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state and the images that this epoch has left."""
        # A clone, because saving a slice saves the whole storage behind it.
        return {"generator": self._generator.get_state(), "order": self._order.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved stream stopped."""
        self._generator.set_state(state["generator"])
        self._order = state["order"]
