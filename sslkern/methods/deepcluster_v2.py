"""DeepCluster v2: crops predict the spherical clusters of the last epoch's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.assignments import labels_at, no_labels
from sslkern.methods.parts.crops import check_crops, encode_all
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.kmeans import kmeans
from sslkern.methods.parts.memory import IndexMemory
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss

_OP = "DeepClusterV2"


class DeepClusterV2(Method):
    r"""Classification of crops by the centroids of several clusterings.

    .. math:: \ell_i = \frac{1}{H V} \sum_{h \le H} \sum_v -\log
              \mathrm{softmax}\Bigl(\frac{z_{iv} C_h^\top}{\tau}\Bigr)_{y_{hi}}

    with the unit projections z of V crops. The prototypes :math:`C_h` are centroids of spherical
    k-means over the embeddings that a memory has of all samples, and take no gradient; y are the
    labels. Each of the first A crops has a memory, into which its embeddings go after the loss;
    clustering h is of memory h mod A. `cluster` is called before each epoch. Before the first one
    `remember` fills the memories.

    Args:
        encoder: Maps crops (R, ...) of each size, for any number R, to features (R, feature_dim).
        feature_dim: Width of the encoder's features.
        samples: Number N of samples of the training set.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width D of the projections.
        clusterings: H.
        prototypes: Clusters K of each clustering, at most N.
        temperature: tau.
        iterations: Of k-means, at most.
        remembered_crops: A.

    Raises:
        ValueError: If a size or the temperature is not positive, or there are more clusters than
            samples.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import DeepClusterV2
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = DeepClusterV2(encoder, 32, samples=100, prototypes=10)
        >>> images = torch.rand(100, 1, 8, 8)
        >>> model.remember(torch.arange(100), images, images)
        >>> model.cluster()
        >>> index = torch.randperm(100)[:16]
        >>> model(index, images[index], images[index]).backward()

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882 (appendix, DeepCluster-v2)
    """

    prototypes: Tensor
    """Centroids of each clustering, (H, K, D)."""
    labels: Tensor
    """Cluster of each sample in each clustering, (H, N) int64; -1 before the first clustering."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        clusterings: int = 3,
        prototypes: int = 3000,
        temperature: float = 0.1,
        iterations: int = 10,
        remembered_crops: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"samples": samples, "clusterings": clusterings, "prototypes": prototypes}
        sizes |= {"iterations": iterations, "remembered_crops": remembered_crops}
        for name, value in sizes.items():
            check_count(value, name, _OP)
        if prototypes > samples:
            refuse(_OP, "prototypes", f"at most the number of samples, {samples}", prototypes)
        check_positive_number(temperature, "temperature", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        self.head = mlp([feature_dim, hidden_dim, projection_dim])
        self.memories = nn.ModuleList(
            IndexMemory(samples, projection_dim, momentum=0.0, init="sphere")
            for _ in range(remembered_crops)
        )
        self.register_buffer("prototypes", torch.zeros(clusterings, prototypes, projection_dim))
        self.register_buffer("labels", no_labels(clusterings, samples))
        self.temperature = temperature
        self.iterations = iterations

    def forward(self, index: Tensor, *crops: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            index: Which samples of the training set these are, (B,) int64.
            crops: (B, ...) each; the remembered ones first, which share a shape.

        Returns:
            Scalar: the mean over clusterings, crops and samples.

        Raises:
            ValueError: If nothing was clustered yet, the index is out of range or of another shape,
                crops do not fit, there is one sample where a batch norm needs two, or the encoder
                returns something else than (R, feature_dim).
        """
        z = self._project(crops)
        labels = labels_at(self.labels, index, len(crops[0]), _OP).repeat(1, len(crops))
        losses = [
            info_nce_loss(z, centroids.to(z.dtype), target=target, temperature=self.temperature)
            for centroids, target in zip(self.prototypes, labels, strict=True)
        ]
        if self.training:
            self._remember(index, z.detach().chunk(len(crops)))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def remember(self, index: Tensor, *crops: Tensor) -> None:
        """Put the embeddings of samples into the memories.

        Args:
            index: (B,) int64.
            crops: (B, ...) each, at least the remembered ones.

        Raises:
            ValueError: As for the loss.
        """
        crops = crops[: len(self.memories)]
        self._remember(index, self._project(crops).chunk(len(crops)))

    @torch.no_grad()
    def cluster(self, generator: torch.Generator | None = None) -> None:
        """Find prototypes and labels of what is in the memories.

        Args:
            generator: Of k-means.
        """
        memories = self._all_memories()
        for h, (prototypes, labels) in enumerate(zip(self.prototypes, self.labels, strict=True)):
            found = kmeans(
                memories[h % len(memories)].rows,
                len(prototypes),
                iterations=self.iterations,
                spherical=True,
                generator=generator,
            )
            prototypes.copy_(found.centroids)
            labels.copy_(found.assignment)

    def _project(self, crops: tuple[Tensor, ...]) -> Tensor:
        norms = [self.encoder, self.head]
        check_crops(crops, len(self.memories), _OP, least=1, norms=norms)
        return F.normalize(self.head(encode_all(self.encoder, crops, self.feature_dim, _OP)))

    def _remember(self, index: Tensor, z: tuple[Tensor, ...]) -> None:
        for memory, rows in zip(self._all_memories(), z, strict=False):
            memory.update(index, rows)

    def _all_memories(self) -> list[IndexMemory]:
        return [memory for memory in self.memories if isinstance(memory, IndexMemory)]
