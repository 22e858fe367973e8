"""PCL: MoCo, and beside it contrast of queries with the centers of clusters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.kmeans import kmeans
from sslkern.methods.parts.memory import check_index
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count, check_rows
from sslkern.ops.info_nce import info_nce_loss

ITERATIONS = 20
"""Of k-means, as in the paper's code."""


class PCL(Method):
    r"""Prototypical contrastive learning of the samples of a fixed training set.

    .. math::
        \ell &= \ell_{\mathrm{MoCo}} - \frac{1}{M} \sum_{m=1}^{M} \log
                \frac{\exp(q \cdot c^m_s / \phi^m_s)}{\sum_j \exp(q \cdot c^m_j / \phi^m_j)} \\
        \phi_j &= \frac{\sum_{i \in j} \lVert k_i - c_j \rVert}{Z_j \log(Z_j + 10)}

    Between epochs the momentum embeddings k of all samples are clustered M times, into different
    numbers of clusters; s is the cluster of the query's sample and :math:`Z_j` the size of
    cluster j. The concentrations :math:`\phi` are a temperature for each center: clusters of one
    get the largest, all are clipped to the 10th and 90th percentile and scaled to a mean of tau.
    Until `cluster` is called for the first time, the loss is MoCo's, which is the paper's warm-up.

    All centers are in the denominator; the paper's code draws some of them, and counts the center
    of another sample of the batch once more for each such sample.

    Before each epoch::

        method.cluster(torch.cat([method.embed(images) for images in chunks_in_order]))

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        samples: Number N of training samples.
        clusters: Numbers of clusters, one for each clustering.
        projection_dim: Width D of queries and keys.
        queue_size: Keys that are kept.
        temperature: tau.
        momentum: Of the key encoder, from 0 to 1.

    Raises:
        ValueError: If a size or the temperature is not positive, there are more clusters than
            samples or no clusterings, or the momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import PCL
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = PCL(encoder, feature_dim=32, samples=64, clusters=(4, 8), queue_size=256)
        >>> images, index = torch.rand(64, 1, 8, 8), torch.arange(16)
        >>> model.cluster(model.embed(images))
        >>> views = images[:16] + 0.1 * torch.randn(2, 16, 1, 8, 8)
        >>> model(views[0], views[1], index).backward()

    Source: Li et al., "Prototypical Contrastive Learning of Unsupervised Representations", 2020,
    https://arxiv.org/abs/2005.04966
    """

    assignments: Tensor
    """Cluster of each sample in each clustering, (M, N) int64."""
    centers: Tensor
    """Of all clusterings, one after the other, (sum of the numbers of clusters, D)."""
    concentrations: Tensor
    """Temperature of each center, in the same order."""
    clustered: Tensor
    """1 once there are clusters, else 0: the weight of their part of the loss."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        clusters: Sequence[int] = (25000, 50000, 100000),
        projection_dim: int = 128,
        queue_size: int = 16384,
        temperature: float = 0.2,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "PCL")
        check_count(samples, "samples", "PCL")
        _check_clusters(clusters, samples)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, feature_dim, projection_dim], norm="none")
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum)
        self.queue = Queue(queue_size, projection_dim)
        self.clusters = list(clusters)
        self.temperature = temperature
        self.register_buffer("assignments", torch.zeros(len(clusters), samples, dtype=torch.int64))
        self.register_buffer("centers", torch.zeros(sum(clusters), projection_dim))
        self.register_buffer("concentrations", torch.full((sum(clusters),), temperature))
        self.register_buffer("clustered", torch.zeros(()))

    def forward(self, view_query: Tensor, view_key: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_query: (B, ...); one view of each sample, encoded with a gradient.
            view_key: Same shape; another view of the same samples, for the momentum encoder.
            index: Which samples these are, (B,) int64 in [0, N).

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two,
                an index is missing or out of range, or the encoder returns something else than
                (B, feature_dim).
            TypeError: If the index is not int64.
        """
        check_views((view_query, view_key), "PCL", norms=[self.encoder])
        check_index(index, "index", "PCL", self.assignments.shape[1], view_query)
        if index.shape != view_query.shape[:1]:
            refuse("PCL", "index", f"of shape ({len(view_query)},)", f"shape {tuple(index.shape)}")
        query = self.head(encode(self.encoder, view_query, self.feature_dim, "PCL"))
        key = F.normalize(self.teacher(view_key))
        loss = info_nce_loss(query, key, self.queue.rows, temperature=self.temperature)
        loss = loss + self.clustered * self._against_centers(query, index)
        if self.training:
            self.queue.enqueue(key)
        return loss

    @torch.no_grad()
    def embed(self, views: Tensor) -> Tensor:
        """Momentum embeddings (B, D) of unit norm, for `cluster`, in evaluation mode."""
        was_training = self.teacher.training
        self.teacher.eval()
        embeddings = F.normalize(self.teacher(views))
        self.teacher.train(was_training)
        return embeddings

    @torch.no_grad()
    def cluster(self, embeddings: Tensor, generator: torch.Generator | None = None) -> None:
        """Cluster the samples anew.

        Args:
            embeddings: Of all samples in the order of their indices, (N, D).
            generator: Source of the first centers.

        Raises:
            ValueError: For another shape.
        """
        check_rows(embeddings, "embeddings", "PCL", least=1)
        expected = (self.assignments.shape[1], self.centers.shape[1])
        if embeddings.shape != expected:
            shape = f"shape {tuple(embeddings.shape)}"
            refuse("PCL", "embeddings", f"of shape {expected}", shape)
        rows = F.normalize(embeddings)
        found = [kmeans(rows, k, iterations=ITERATIONS, generator=generator) for k in self.clusters]
        self.assignments.copy_(torch.stack([f.assignment for f in found]))
        self.centers.copy_(torch.cat([f.centroids for f in found]))
        self.concentrations.copy_(
            torch.cat(
                [
                    concentration(f.distance, f.assignment, len(f.centroids), self.temperature)
                    for f in found
                ]
            )
        )
        self.clustered.fill_(1.0)

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)

    def _against_centers(self, query: Tensor, index: Tensor) -> Tensor:
        """Mean over the clusterings."""
        losses = [
            info_nce_loss(query, centers, target=assignment[index], temperature=temperatures)
            for centers, temperatures, assignment in zip(
                torch.split(self.centers, self.clusters),
                torch.split(self.concentrations, self.clusters),
                self.assignments,
                strict=True,
            )
        ]
        return torch.stack(losses).mean()


def concentration(distance: Tensor, assignment: Tensor, clusters: int, mean: float) -> Tensor:
    """Temperatures (clusters,) from the distances (N,) of samples to the centers of their clusters.

    Where all samples lie on their centers, all temperatures are the mean.
    """
    size = torch.bincount(assignment, minlength=clusters)
    total = torch.zeros_like(distance[:1]).repeat(clusters).index_add_(0, assignment, distance)
    phi = total / size.clamp_min(1) / (size + 10).to(total).log()
    phi = torch.where(size > 1, phi, phi.max()).clamp_min(torch.finfo(phi.dtype).tiny)
    low, high = torch.quantile(phi, phi.new_tensor([0.1, 0.9])).unbind()
    phi = phi.clamp(low, high)
    return mean * phi / phi.mean()


def _check_clusters(clusters: Sequence[int], samples: int) -> None:
    if len(clusters) == 0:
        refuse("PCL", "clusters", "at least one number", "none")
    for k in clusters:
        check_count(k, "clusters", "PCL")
        if k > samples:
            refuse("PCL", "clusters", f"at most the number of samples, {samples}", k)
