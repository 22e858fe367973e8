"""What tests say once for every device that they run on."""

from __future__ import annotations

import torch


def autocast() -> torch.autocast:
    """In bfloat16, on the device of the tensors that a test makes: the default of its backend."""
    return torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16)
