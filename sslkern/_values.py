"""Whether operators look at the values of tensors on a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sslkern.ops._extension import C


@contextmanager
def check_values(on: bool = True) -> Iterator[None]:
    """Have operators check the values of CUDA tensors, which waits for the device at every call.

    Shapes, dtypes and Python numbers are always checked; so are values of CPU tensors. Of CUDA
    tensors a wrong value (a temperature that is not positive, a target out of range) gives NaN
    instead of an error, unless it is looked at.

    Over processes what all must have alike, such as a queue, is compared by what it holds, on CPU
    and CUDA, and otherwise by its shape alone.

    Args:
        on: Whether values are checked inside the ``with`` block.

    Example:
        >>> import torch, sslkern
        >>> with sslkern.check_values():
        ...     loss = sslkern.ntxent_loss(torch.eye(2), torch.eye(2))
    """
    before = C.check_values()
    C.set_check_values(on)
    try:
        yield
    finally:
        C.set_check_values(before)
