"""A queue of the most recent keys, for losses against a memory bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count


class Queue(nn.Module):
    """Ring buffer of rows: the newest replace the oldest, whatever the size of the batch.

    Read `rows`, compute the loss, then `enqueue`: a batch is not its own negative. While the keys
    need no gradient, `sslkern.info_nce_loss` has formed that of the queries by then, so the order
    loss, enqueue, ``backward`` is safe. The contents and the position are buffers: they are saved
    with the state and move with ``to``.

    Args:
        size: Number of rows kept.
        dim: Length of a row.
        generator: Source of the first contents, random rows of unit norm as in MoCo.

    Raises:
        ValueError: If the size or the length is not positive.
        TypeError: If one of them is no integer.

    Example:
        >>> import torch, sslkern
        >>> from sslkern.methods import Queue
        >>> queue = Queue(size=4, dim=2)
        >>> queue.enqueue(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        >>> queue.enqueue(torch.tensor([[0.6, 0.8], [0.8, 0.6]]))
        >>> queue.rows[:, 0].tolist() == torch.tensor([0.8, 0.0, 1.0, 0.6]).tolist()
        True

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
    https://arxiv.org/abs/1911.05722
    """

    rows: Tensor
    """Contents, (size, dim): in the order of the places, not of age."""
    position: Tensor
    """Place of the oldest row, a 0-d int64 tensor."""

    def __init__(self, size: int, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            check_count(value, name, "Queue")
        rows = torch.randn(size, dim, generator=generator)
        self.register_buffer("rows", nn.functional.normalize(rows))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Replace the oldest rows.

        Args:
            rows: New rows (B, dim), of any floating dtype; of more than the queue holds the last
                ones stay.

        Raises:
            ValueError: If they are not of shape (B, dim).
        """
        size, dim = self.rows.shape
        if rows.dim() != 2 or rows.shape[1] != dim:
            refuse("Queue", "rows", f"of shape (B, {dim})", f"shape {tuple(rows.shape)}")
        count = len(rows)
        first = max(0, count - size)
        # The position stays a tensor: on a GPU nothing waits for it, in a graph nothing breaks.
        places = torch.arange(first, count, device=self.rows.device) + self.position
        self.rows[places % size] = rows[first:].to(self.rows)
        self.position.copy_((self.position + count) % size)
