"""MoCo v3: each view predicts the momentum encoder's key of the other one, among all of a batch."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss


class MoCoV3(Method):
    r"""Momentum contrast, version 3: without a queue, in both directions, with a predictor.

    .. math:: \ell = c(q_1, k_2) + c(q_2, k_1), \quad c(q, k) = -\frac{2 \tau}{B} \sum_i \log
              \frac{e^{q_i \cdot k_i / \tau}}{\sum_j e^{q_i \cdot k_j / \tau}}

    with the queries q = predictor(head(encoder(x))) of either view and the keys k of a momentum
    encoder and head, which has no predictor; all of unit norm. Keys take no gradient. Each view is
    encoded on its own. The momentum rises to 1 along a cosine over the training.

    The factor :math:`2\tau` and the norms of the heads are those of the paper's code. What is left
    to the user: the frozen projection of patches of its transformers, and LARS for its ResNets.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the heads' hidden layers.
        projection_dim: Width D of queries and keys.
        projector_layers: Linear layers of the head: 3 for transformers, 2 for ResNets.
        temperature: tau; the code has 0.2 for transformers and 1 for ResNets.
        momentum: Of the key encoder at the start, from 0 to 1.

    Raises:
        ValueError: If a width, the number of layers or the temperature is not positive, or the
            momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import MoCoV3
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = MoCoV3(encoder, feature_dim=32, hidden_dim=64)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> model.update(progress=0.5)

    Source: Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers. 2021.
    https://arxiv.org/abs/2104.02057 (algorithm 1)
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        projector_layers: int = 3,
        temperature: float = 0.2,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "MoCoV3")
        check_count(projector_layers, "projector_layers", "MoCoV3")
        hidden = [hidden_dim] * (projector_layers - 1)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, *hidden, projection_dim], last_norm="plain")
        self.predictor = mlp([projection_dim, hidden_dim, projection_dim], last_norm="plain")
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum, "cosine")
        self.temperature = temperature

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...); one view of each sample.
            view_b: Same shape; another view of the same samples.

        Returns:
            Scalar; the sum of the means of both directions.

        Raises:
            ValueError: If the views differ in shape, hold one sample where the batch norms need
                two, or the encoder returns something else than (B, feature_dim).
        """
        views = (view_a, view_b)
        check_views(views, "MoCoV3", norms=[self])
        query_a, query_b = (self._query(view) for view in views)
        key_a, key_b = (self.teacher(view) for view in views)
        loss = self._contrast(query_a, key_b) + self._contrast(query_b, key_a)
        return 2 * self.temperature * loss

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)

    def _query(self, view: Tensor) -> Tensor:
        features = encode(self.encoder, view, self.feature_dim, "MoCoV3")
        query: Tensor = self.predictor(self.head(features))
        return query

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        return info_nce_loss(query, key, temperature=self.temperature)
