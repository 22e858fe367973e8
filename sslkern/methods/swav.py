"""SwAV: each crop predicts to which prototypes the others are assigned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.crops import check_crops, encode_all
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.prototypes import Prototypes
from sslkern.methods.parts.queue import Queue
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_count
from sslkern.ops.sinkhorn import check_iterations
from sslkern.ops.swapped_prediction import swav_loss

_OP = "SwAV"


class SwAV(Method):
    r"""Swapped assignments of crops to prototypes, in equal shares.

    .. math:: q_i = \mathrm{sinkhorn}(z_i C^\top / \epsilon), \quad
              L = \frac{1}{A (V - 1)} \sum_{i \le A} \sum_{v \ne i}
              - q_i \cdot \log \mathrm{softmax}(z_v C^\top / \tau)

    with the unit projections z of V crops, the first A of which are assigned, and unit prototypes
    C. Assignments take no gradient. The encoder sees the crops of one size as one batch, the head
    all of them.

    A queue lets small batches share the prototypes with earlier embeddings of the same crop. It is
    used once it is full, as in the paper's code, which also starts it late in the training; here a
    queue fills from the first batch on.

    Args:
        encoder: Maps crops (R, ...) of each size, for any number R, to features (R, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width D of the projections.
        prototypes: Number K of prototypes.
        temperature: tau of the predictions.
        epsilon: Of the assignments; the lower, the harder.
        iterations: Of Sinkhorn-Knopp.
        freeze_iterations: First backward passes that leave the prototypes as they are; 313 or 5005
            in the paper's code.
        assigned_crops: A.
        queue_size: Embeddings that are kept of each assigned crop; 0 for no queue.

    Raises:
        ValueError: If a size, the temperature or epsilon is not positive.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import SwAV
        >>> encoder = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        ... )
        >>> model = SwAV(encoder, feature_dim=32, prototypes=20)
        >>> large, small = torch.rand(2, 16, 1, 8, 8), torch.rand(3, 16, 1, 6, 6)
        >>> model(*large, *small).backward()

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        freeze_iterations: int = 0,
        assigned_crops: int = 2,
        queue_size: int = 0,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", _OP)
        check_positive_number(epsilon, "epsilon", _OP)
        check_iterations(iterations, _OP)
        check_count(assigned_crops, "assigned_crops", _OP)
        if queue_size != 0:
            check_count(queue_size, "queue_size", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        self.head = mlp([feature_dim, hidden_dim, projection_dim])
        self.prototypes = Prototypes(
            projection_dim, prototypes, freeze_iterations=freeze_iterations
        )
        queues = assigned_crops if queue_size else 0
        self.queues = nn.ModuleList(Queue(queue_size, projection_dim) for _ in range(queues))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.assigned_crops = assigned_crops
        self.queue_size = queue_size

    queued: Tensor
    """Embeddings that entered each queue so far, a 0-d int64 tensor."""

    def forward(self, *crops: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            crops: (B, ...) each, at least two; the assigned ones first, which share a shape.

        Returns:
            Scalar: the mean over assigned crops, other crops and samples.

        Raises:
            ValueError: For too few crops, crops of several batch sizes, one sample where a batch
                norm needs two, or an encoder that returns something else than (R, feature_dim).
        """
        check_crops(crops, self.assigned_crops, _OP, norms=[self.encoder, self.head])
        features = encode_all(self.encoder, crops, self.feature_dim, _OP)
        z = F.normalize(self.head(features))
        scores = self.prototypes(z).chunk(len(crops))
        loss = swav_loss(
            scores[: self.assigned_crops],
            scores[self.assigned_crops :],
            self._queued_scores(),
            temperature=self.temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
        )
        if self.training and self.queue_size:
            self._enqueue(z.chunk(len(crops)))
        return loss

    def _queued_scores(self) -> list[Tensor] | None:
        """Of the queues against the prototypes as they are, once the queues are full."""
        if not self.queue_size or int(self.queued) < self.queue_size:
            return None
        with torch.no_grad():
            return [self.prototypes(queue.rows) for queue in self._all_queues()]

    def _enqueue(self, z: tuple[Tensor, ...]) -> None:
        for queue, rows in zip(self._all_queues(), z, strict=False):
            queue.enqueue(rows)
        self.queued.add_(len(z[0]))

    def _all_queues(self) -> list[Queue]:
        return [queue for queue in self.queues if isinstance(queue, Queue)]
