"""float32 products that are rounded to tf32, as torch's settings may allow on CUDA.

Elements that tf32 has have products without any rounding: with such inputs, which no normalisation
changes, results have to be as accurate as those of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import torch
from torch import Tensor

from sslkern.cli import verify
from sslkern.verification.terms import Values

LOW_BITS = 0x1FFF  # of a float32, those that tf32 does not have


def representable(x: Tensor) -> Tensor:
    """Towards zero, the nearest elements that tf32 has; numbers and integers stay as they are."""
    if x.dtype != torch.float32 or x.dim() == 0:
        return x
    return (x.view(torch.int32) & ~LOW_BITS).view(torch.float32)


@contextmanager
def setting(owner: object, name: str, value: object) -> Iterator[None]:
    """One of torch's; what it was comes back."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def allowed() -> AbstractContextManager[None]:
    return setting(torch.backends.cuda.matmul, "fp32_precision", "tf32")


@contextmanager
def verified() -> Iterator[None]:
    """What `verify` compares, too, with inputs that tf32 has."""
    inputs_of = verify._inputs

    def inputs(*given: object) -> Values:
        return {name: representable(x) for name, x in inputs_of(*given).items()}

    with allowed(), mock.patch.object(verify, "_inputs", inputs):
        yield
