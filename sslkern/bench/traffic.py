"""Floors of losses that memory limits: the reads and writes that no algorithm avoids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslkern.bench.contenders import Contender, Problem, Step


def as_words(x: Tensor) -> Tensor:
    """Half types two at a time as float32, so that reading them is timed and no conversion."""
    paired = x.dtype.itemsize == 2 and x.shape[-1] % 2 == 0
    return x.view(torch.float32) if paired else x


def traffic_floor(about: str, prepare: Callable[[Problem], Step], *, matrices: float) -> Contender:
    """A contender that only moves memory; see `Contender` for the arguments."""
    return Contender("memory", f"{about}: a floor", prepare, matrices=matrices, is_floor=True)
