"""DeepCluster: clusters of the features are the classes that the encoder learns next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.assignments import check_all_rows, labels_at, no_labels
from sslkern.methods.parts.kmeans import kmeans
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.linear_cross_entropy import linear_cross_entropy
from sslkern.reference._common import normalize_rows, to_working_dtype

_OP = "DeepCluster"
_SMALLEST_VARIANCE = 1e-10
"""Of a principal direction, relative to the largest: others are noise of the arithmetic."""


class DeepCluster(Method):
    r"""Classification of samples into the k-means clusters of their own features.

    .. math:: \ell_i = -\log \mathrm{softmax}(W f(x_i) + b)_{y_i}

    where y are clusters of the features of the whole set, whitened by their principal components
    and of unit norm. `cluster` finds them, before the first epoch and then before every other
    one, and starts the classifier anew, since clusters have no order. The labels are part of the
    state.

    The paper draws samples from all clusters alike. Here the loss weights each by the inverse size
    of its cluster, which has the same mean. Empty clusters take the sample that is farthest from
    its own. The paper's Sobel filter is left to the encoder.

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim).
        feature_dim: Width F of the encoder's features.
        samples: Number N of samples of the training set.
        clusters: Number K of clusters, at most N.
        components: Principal components that are kept; at most F.
        iterations: Of k-means, at most.

    Raises:
        ValueError: If a size is not positive, or there are more clusters than samples.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import DeepCluster
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = DeepCluster(encoder, 32, samples=100, clusters=10)
        >>> images = torch.rand(100, 1, 8, 8)
        >>> model.cluster(model.encoder(images))
        >>> index = torch.randperm(100)[:16]
        >>> model(images[index], index).backward()

    Source: Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", 2018,
    https://arxiv.org/abs/1807.05520
    """

    labels: Tensor
    """Cluster of each sample, (N,) int64; -1 before the first clustering."""
    weight: Tensor
    """Of each cluster in the loss, (K,): one over its size."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        clusters: int = 10000,
        components: int = 256,
        iterations: int = 20,
    ) -> None:
        super().__init__()
        sizes = {"feature_dim": feature_dim, "samples": samples, "clusters": clusters}
        sizes |= {"components": components, "iterations": iterations}
        for name, value in sizes.items():
            check_count(value, name, _OP)
        if clusters > samples:
            refuse(_OP, "clusters", f"at most the number of samples, {samples}", clusters)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.clusters = clusters
        self.components = components
        self.iterations = iterations
        self.classifier = nn.Linear(feature_dim, clusters)
        self.register_buffer("labels", no_labels(samples))
        self.register_buffer("weight", torch.ones(clusters))
        self._begin_classifier()

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the loss of a batch: the mean over samples, weighted by their clusters.

        Args:
            images: (B, ...).
            index: Which samples of the training set they are, (B,) int64.

        Returns:
            Scalar.

        Raises:
            ValueError: If nothing was clustered yet, the index is out of range or of another shape,
                there is one sample where a batch norm needs two, or the encoder returns something
                else than (B, feature_dim).
        """
        check_views([images], _OP, norms=[self.encoder], name="images")
        labels = labels_at(self.labels, index, len(images), _OP)
        features = encode(self.encoder, images, self.feature_dim, _OP)
        return linear_cross_entropy(
            features,
            self.classifier.weight.to(features.dtype),
            labels,
            bias=self.classifier.bias,
            class_weight=self.weight,
        )

    @torch.no_grad()
    def cluster(self, features: Tensor, generator: torch.Generator | None = None) -> None:
        """Label all samples anew, and start the classifier again.

        Args:
            features: Of all samples in the order of their indices, (N, F).
            generator: Of k-means; the classifier starts from torch's global one.

        Raises:
            ValueError: If the features are of another shape.
        """
        check_all_rows(features, len(self.labels), self.feature_dim, _OP)
        rows = whiten(features, self.components)
        found = kmeans(rows, self.clusters, iterations=self.iterations, generator=generator)
        self.labels.copy_(found.assignment)
        sizes = found.assignment.bincount(minlength=self.clusters)
        self.weight.copy_(sizes.clamp_min(1).reciprocal())
        self._begin_classifier()

    def _begin_classifier(self) -> None:
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)


def whiten(features: Tensor, components: int) -> Tensor:
    """Principal components of unit variance, of rows that are scaled to unit norm afterwards.

    Directions without variance are left out.

    Args:
        features: (N, F).
        components: How many at most, the ones of the largest variance.

    Returns:
        (N, components) or fewer columns, in float64.
    """
    centered = to_working_dtype(features).double()
    centered = centered - centered.mean(0)
    variance, directions = torch.linalg.eigh(centered.T @ centered / len(centered))
    variance, directions = variance[-components:], directions[:, -components:]
    used = variance > _SMALLEST_VARIANCE * variance[-1]
    return normalize_rows(centered @ (directions[:, used] / variance[used].sqrt()))
