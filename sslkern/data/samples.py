"""What every data set is: tensors that are indexed together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """N samples, each a row of every tensor; fields that are no tensors belong to all of them."""

    def __len__(self) -> int:
        """N."""
        return len(next(iter(self._tensors().values())))

    def take(self, index: Tensor) -> Self:
        """The samples at ``index`` (M,) int64."""
        return dataclasses.replace(self, **{k: v[index] for k, v in self._tensors().items()})

    def to(self, dtype: torch.dtype) -> Self:
        """The same with every floating tensor in ``dtype``."""
        reals = {k: v.to(dtype) for k, v in self._tensors().items() if v.is_floating_point()}
        return dataclasses.replace(self, **reals)

    def split_half(self, generator: torch.Generator) -> tuple[Self, Self]:
        """Split at random into a training half, N // 2 samples, and a test half, the others."""
        order = torch.randperm(len(self), generator=generator)
        half = len(self) // 2
        return self.take(order[:half]), self.take(order[half:])

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class LabelledImages(Samples):
    """Images, or signals, and the class of each.

    Attributes:
        images: (N, C, H, W), or (N, C, L) signals, floating.
        labels: (N,) int64 from 0 on.
        classes: Name of each class.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
