"""A memory with one row for each sample of the training set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_same_device, check_tensor, refuse
from sslkern.ops._embeddings import check_count, check_rows, full_precision
from sslkern.reference._common import normalize_rows, to_working_dtype

_OP = "IndexMemory"

Init = Literal["uniform", "sphere"]
INITS = ("uniform", "sphere")


class IndexMemory(nn.Module):
    r"""Moving averages of the embeddings of each sample, found by the sample's index.

    .. math:: m_i \leftarrow \frac{u}{\lVert u \rVert}, \quad
              u = \mu\,m_i + (1 - \mu)\,\frac{z_i}{\lVert z_i \rVert}

    The rows are a buffer: they are saved with the state, move with ``to`` and get no gradient.
    Rows with a norm below 1e-12 count as zero.

    Args:
        size: Number N of samples.
        dim: Length D of a row.
        momentum: The share :math:`\mu` of the old row, from 0 to 1.
        generator: Source of the first rows.
        init: ``"uniform"``: the paper's, elements between :math:`\pm\sqrt{3 / D}`, so that a row
            has about unit norm; ``"sphere"``: random directions of exactly unit norm.

    Raises:
        ValueError: If a size is not positive, the momentum outside [0, 1] or ``init`` unknown.
        TypeError: If a number is none.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.memory import IndexMemory
        >>> memory = IndexMemory(size=10, dim=2, momentum=0.0)
        >>> memory.update(torch.tensor([7, 3]), torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> print([[round(x, 4) for x in row] for row in memory(torch.tensor([3, 7])).tolist()])
        [[0.0, 1.0], [0.6, 0.8]]

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance-level
    Discrimination", 2018, https://arxiv.org/abs/1805.01978
    """

    rows: Tensor
    """Contents, (N, D) float32."""

    def __init__(
        self,
        size: int,
        dim: int,
        momentum: float = 0.5,
        generator: torch.Generator | None = None,
        init: Init = "uniform",
    ) -> None:
        super().__init__()
        check_count(size, "size", _OP)
        check_count(dim, "dim", _OP)
        check_share(momentum, "momentum", _OP)
        if init not in INITS:
            refuse(_OP, "init", " or ".join(map(repr, INITS)), repr(init))
        self.momentum = momentum
        if init == "uniform":
            rows = (2 * torch.rand(size, dim, generator=generator) - 1) * (3 / dim) ** 0.5
        else:
            rows = F.normalize(torch.randn(size, dim, generator=generator))
        self.register_buffer("rows", rows)

    def forward(self, index: Tensor) -> Tensor:
        """The rows of these samples, as they are now.

        Args:
            index: Samples (...) int64 in [0, N).

        Returns:
            A copy (..., D): a later update does not change it.

        Raises:
            ValueError: For an index on another device or, on the CPU, out of range.
            TypeError: For another dtype.
        """
        check_index(index, "index", _OP, len(self.rows), self.rows)
        return F.embedding(index, self.rows)

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor) -> None:
        """Move the rows of these samples towards new embeddings.

        Of a sample that is in the batch several times the last embedding counts, as if it were
        the only one.

        Args:
            index: Samples (B,) int64 in [0, N).
            rows: Embeddings (B, D), of any floating dtype and norm; they get no gradient.

        Raises:
            ValueError: For a wrong shape, another device or, on the CPU, an index out of range.
            TypeError: For a wrong dtype.
        """
        size, dim = self.rows.shape
        check_rows(rows, "rows", _OP, "BD", least=1)
        check_same_device(rows, "rows", self.rows, "the memory", _OP)
        if rows.shape[1] != dim:
            refuse(_OP, "rows", f"of shape (B, {dim})", f"shape {tuple(rows.shape)}")
        check_index(index, "index", _OP, size, self.rows)
        if index.shape != rows.shape[:1]:
            refuse(_OP, "index", f"of shape ({len(rows)},)", f"shape {tuple(index.shape)}")
        with full_precision(rows):
            new = normalize_rows(to_working_dtype(rows))[_last_occurrence(index)]
            old = to_working_dtype(self.rows[index])
            mixed = normalize_rows(self.momentum * old + (1 - self.momentum) * new)
        self.rows.index_copy_(0, index, mixed.to(self.rows))  # repetitions write the same

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        size, dim = self.rows.shape
        return f"size={size}, dim={dim}, momentum={self.momentum}"


def check_index(index: Tensor, name: str, op: str, count: int, like: Tensor) -> None:
    """Reject what is no int64 on the device of ``like`` and, on the CPU, not in [0, count)."""
    check_tensor(index, name, op)
    if index.dtype != torch.int64:
        raise TypeError(
            f"sslkern::{op}: expected {name} to be of dtype torch.int64, got {index.dtype}"
        )
    if index.device != like.device:
        refuse(op, name, f"on {like.device}", index.device)
    if torch.compiler.is_compiling() or index.device.type != "cpu":
        return
    bad = (index < 0) | (index >= count)
    if bool(bad.any()):
        refuse(op, name, f"of values in [0, {count})", index[bad][0].item())


def _last_occurrence(index: Tensor) -> Tensor:
    """For each place the last place of the same index."""
    ordered, place = index.sort(stable=True)
    return place[torch.searchsorted(ordered, index, right=True) - 1]
