"""K-means: clusters of embeddings, as targets and prototypes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count, check_rows
from sslkern.reference._common import NORM_EPS, normalize_rows, to_working_dtype

_OP = "kmeans"

_ELEMENTS = 1 << 22
"""Elements of the scratch matrices of a chunk of rows."""


class KMeans(NamedTuple):
    """What `kmeans` returns."""

    centroids: Tensor
    """(k, D); float64 for float64 rows, else float32. Of unit norm if the rows were."""
    assignment: Tensor
    """Nearest centroid of each row, (N,) int64."""
    distance: Tensor
    """Euclidean distance of each row to it, (N,), of the dtype of the centroids. The sum of the
    squares is what k-means minimizes."""


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 10,
    spherical: bool = False,
    generator: torch.Generator | None = None,
) -> KMeans:
    r"""Cluster rows: centroids drawn as k-means++ does, then Lloyd's iterations.

    A first centroid is a random row, each next one a row drawn with a probability in proportion to
    its squared distance to the nearest centroid. An iteration moves each centroid to the mean of
    its rows; one without rows moves to the row that is farthest from its own centroid. Iterations
    end early where nothing moves. All arithmetic is in float64, over chunks of rows: of the N x k
    distances a bounded number is held at a time. On the CPU a generator in the same state gives the
    same clusters.

    Args:
        x: Rows (N, D), float64, float32, bfloat16 or float16; finite.
        k: Number of clusters, at most N.
        iterations: The most iterations, positive.
        spherical: Scale rows and centroids to unit norm: clusters by cosine, since
            :math:`\lVert x - c \rVert^2 = 2 - 2 \cos(x, c)`. No row may be zero then.
        generator: Source of the first centroids, of any device.

    Returns:
        Centroids, assignment and distance, which belong together: each row is assigned to the
        nearest of these centroids.

    Raises:
        ValueError: For a wrong shape, k, number of iterations or value.
        TypeError: For a wrong dtype, or a number that is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.kmeans import kmeans
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> clusters = kmeans(x, 2, generator=torch.Generator().manual_seed(0))
        >>> sorted(clusters.centroids.flatten().tolist())
        [0.5, 11.0]
        >>> clusters.distance.tolist()
        [0.5, 0.5, 1.0, 1.0]

    Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007, for the
    start; Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", 2018,
    https://arxiv.org/abs/1807.05520, for the use
    """
    _check(x, k, iterations, spherical)
    rows = _Rows(x.detach(), spherical)
    centroids = _plus_plus(rows, k, generator)
    for _ in range(iterations):
        before, centroids = centroids, _lloyd(rows, centroids)
        if torch.equal(before, centroids):
            break
    assignment, square = _assign(rows, centroids)
    dtype = to_working_dtype(x).dtype
    return KMeans(centroids.to(dtype), assignment, square.sqrt().to(dtype))


class _Rows:
    """The rows as float64, made anew chunk by chunk; of unit norm if they are compared by angle."""

    def __init__(self, x: Tensor, spherical: bool) -> None:
        self.x, self.spherical = x, spherical

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._convert(self.x[index])

    def chunks(self, others: int = 0) -> Iterator[Tensor]:
        """Consecutive chunks; fewer rows in each where ``others`` elements come with each row."""
        for chunk in torch.split(self.x, max(1, _ELEMENTS // (self.x.shape[1] + others))):
            yield self._convert(chunk)

    def _convert(self, chunk: Tensor) -> Tensor:
        chunk = chunk.double()
        return normalize_rows(chunk) if self.spherical else chunk


def _plus_plus(rows: _Rows, k: int, generator: torch.Generator | None) -> Tensor:
    """First centroids (k, D): rows, the next one likely far from those that were drawn."""
    device = generator.device if generator is not None else torch.device("cpu")
    draws = torch.rand(k, dtype=torch.float64, generator=generator, device=device).to(rows.x.device)
    square = torch.ones(len(rows), dtype=torch.float64, device=rows.x.device)
    chosen: list[Tensor] = []
    for draw in torch.split(draws, 1):
        total = square.cumsum(0)
        place = torch.searchsorted(total, draw * total[-1:], right=True).clamp_max(len(rows) - 1)
        centroid = rows[place]
        to_it = torch.cat([(chunk - centroid).square().sum(1) for chunk in rows.chunks()])
        square = torch.minimum(square, to_it) if chosen else to_it
        chosen.append(centroid)
    return torch.cat(chosen)


def _lloyd(rows: _Rows, centroids: Tensor) -> Tensor:
    """The means of the rows of each centroid."""
    assignment, square = _assign(rows, centroids)
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    start = 0
    for chunk in rows.chunks(len(centroids)):
        place = assignment[start : start + len(chunk)]
        member = chunk.new_zeros(len(chunk), len(centroids)).scatter_(1, place[:, None], 1.0)
        sums += member.T @ chunk
        counts += member.sum(0)
        start += len(chunk)
    means = sums / counts.clamp_min(1)[:, None]
    if rows.spherical:
        norm = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        means = torch.where(norm < NORM_EPS, centroids, means / norm)
    empty = (counts == 0).nonzero().flatten()
    means[empty] = rows[square.topk(len(empty)).indices]
    return means


def _assign(rows: _Rows, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each row, and the square of the distance to it."""
    assignment, squares = [], []
    half = centroids.square().sum(1) / 2
    for chunk in rows.chunks(len(centroids)):
        nearest = (half - chunk @ centroids.T).argmin(1)
        assignment.append(nearest)
        squares.append((chunk - centroids[nearest]).square().sum(1))
    return torch.cat(assignment), torch.cat(squares)


def _check(x: Tensor, k: int, iterations: int, spherical: bool) -> None:
    check_rows(x, "x", _OP, least=1)
    check_count(k, "k", _OP)
    check_count(iterations, "iterations", _OP)
    if k > len(x):
        refuse(_OP, "k", f"at most the number of rows, {len(x)}", k)
    finite = x.isfinite()
    if not bool(finite.all()):
        refuse(_OP, "x", "finite", x.detach()[~finite][0].item())
    norms = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    if spherical and bool((norms < NORM_EPS).any()):
        refuse(_OP, "x", "of rows that are not zero with spherical", "a row of zeros")
