"""Gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import emulation
import torch
from torch import Tensor


def passes_gradcheck(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], **tolerances: float
) -> bool:
    """By every element; on emulated kernels, a thousand times as slow, along random directions."""
    return torch.autograd.gradcheck(
        function, inputs, fast_mode=emulation.Emulation.is_running, **tolerances
    )
