"""Losses of a batch that is spread over processes, on torch.distributed.

A loss that is called with ``gather_distributed=True`` is that of all rows of all ranks of
``process_group``, in the order of the ranks; ranks may have different numbers of rows, or none.
Every rank must call it, and ``backward`` too, for both exchange rows or statistics of rows.

- ``reduction="mean"`` and ``"sum"`` return the mean or sum over all ranks, the same on each;
  ``"none"`` returns this rank's rows.
- A rank's gradient is that of the sum of what all ranks differentiate. Where they differentiate the
  same loss, the mean over ranks that DistributedDataParallel and FSDP take of the gradients of
  parameters is the gradient that one process with the whole batch would have had.
- What is not a row (temperatures, biases of a scale, queues) must be the same on all ranks. The
  ranks compare shapes, dtypes, options and numbers in one small exchange and all raise if they
  disagree; on GPUs the host waits for it. ``check=False``, on all of them, leaves it out: then all
  ranks must have as many rows, and what one is given wrong leaves the others waiting. The host
  still waits where a loss reads numbers: targets, a temperature of shape (1,), the sums of products
  of rows where D > N, a tolerance.
- `all_rows` gives what a queue that is the same on all ranks takes.
- `cached_step` is for batches whose encoder, not whose loss, does not fit.
- A rank that dies or hangs ends in an error on the others within the timeout of their group.

Compiled graphs break at such a loss.
"""

from sslkern.parallel.cached import cached_step
from sslkern.parallel.processes import all_rows

__all__ = ["all_rows", "cached_step"]
