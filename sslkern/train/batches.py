"""Shuffled batches whose whole random state can be saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkern.data import Samples
from sslkern.train.recipe import Batch


class Stream:
    """Endless batches, epoch after epoch.

    Each epoch shuffles the samples and leaves out the last ``N % batch_size`` of that order, so
    that every batch has the same size.

    Args:
        samples: What the batches are of.
        batch: Makes the arguments of a method of the samples at some indices.
        batch_size: B, from 1 to N.
        generator: Decides order and batches, and is part of the state.
        begin_epoch: Called before each epoch with the generator.
    """

    def __init__(
        self,
        samples: Samples,
        batch: Batch,
        batch_size: int,
        generator: torch.Generator,
        begin_epoch: Callable[[torch.Generator], None] = lambda generator: None,
    ) -> None:
        """Begin before the first epoch."""
        self.steps_per_epoch = len(samples) // batch_size
        self._samples = samples
        self._batch = batch
        self._batch_size = batch_size
        self._generator = generator
        self._begin_epoch = begin_epoch
        self._order = torch.empty(0, dtype=torch.long)  # what is left of this epoch

    def next_batch(self) -> tuple[Tensor, ...]:
        """What the method is called with for the next B samples."""
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(len(self._samples), generator=self._generator)
            self._begin_epoch(self._generator)
        index, self._order = self._order.tensor_split([self._batch_size])
        return self._batch(self._samples, index, self._generator)

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state and the samples that this epoch has left."""
        # A clone, because saving a slice saves the whole storage behind it.
        return {"generator": self._generator.get_state(), "order": self._order.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved stream stopped."""
        self._generator.set_state(state["generator"])
        self._order = state["order"]
