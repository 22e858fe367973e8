"""NNCLR: an image's positive is the nearest neighbor of its other view among earlier images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode_views
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.queue import Queue
from sslkern.ops._common import check_positive_number
from sslkern.ops.info_nce import info_nce_loss


class NNCLR(Method):
    r"""Contrastive learning with nearest neighbors of a queue as positives.

    .. math:: \ell = \tfrac{1}{2} \bigl(c(n^a, p^b) + c(n^b, p^a)\bigr), \quad
              c(n, p) = -\frac{1}{B} \sum_i \log
              \frac{e^{n_i \cdot p_i / \tau}}{\sum_j e^{n_i \cdot p_j / \tau}}, \quad
              n_i = \operatorname*{arg\,max}_{u \in Q} z_i \cdot u

    with projections z = head(encoder(x)) of either view and predictions p = predictor(z), all of
    unit norm. The queue Q holds projections of earlier batches; neighbors take no gradient. In
    training mode the first view's projections enter the queue after the loss. Both views go through
    the networks as one batch.

    The head and the predictor are those of the paper, whose loss is averaged over both directions
    here.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layers.
        projection_dim: Width of projections and predictions.
        predictor_dim: Width of the predictor's hidden layer.
        queue_size: Projections that are kept.
        temperature: tau.

    Raises:
        ValueError: If a size or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import NNCLR
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = NNCLR(encoder, feature_dim=32, hidden_dim=64, queue_size=256)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> int(model.queue.position)
        16

    Source: Dwibedi, Aytar, Tompson, Sermanet, Zisserman: With a Little Help from My Friends:
    Nearest-Neighbor Contrastive Learning of Visual Representations. 2021.
    https://arxiv.org/abs/2104.14548
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        predictor_dim: int = 4096,
        queue_size: int = 98304,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "NNCLR")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, hidden_dim, hidden_dim, projection_dim], last_norm="batch")
        self.predictor = mlp([projection_dim, predictor_dim, projection_dim])
        self.queue = Queue(queue_size, projection_dim)
        self.temperature = temperature

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_a: (B, ...); one view of each sample.
            view_b: Same shape; another view of the same samples.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, or the encoder returns something else than
                (2B, feature_dim) for them.
        """
        views = (view_a, view_b)
        check_views(views, "NNCLR")
        z = self.head(encode_views(self.encoder, views, self.feature_dim, "NNCLR"))
        prediction_a, prediction_b = self.predictor(z).chunk(2)
        z = F.normalize(z.detach())
        neighbor_a, neighbor_b = nearest(z, self.queue.rows).to(prediction_a).chunk(2)
        loss = self._contrast(neighbor_a, prediction_b) + self._contrast(neighbor_b, prediction_a)
        if self.training:
            self.queue.enqueue(z[: len(view_a)])
        return loss / 2

    def _contrast(self, neighbor: Tensor, prediction: Tensor) -> Tensor:
        return info_nce_loss(neighbor, prediction, temperature=self.temperature)


@torch.no_grad()
def nearest(z: Tensor, rows: Tensor) -> Tensor:
    """For each embedding (B, D) the one of the unit rows (K, D) with the largest product."""
    return rows[(z.to(rows.dtype) @ rows.T).argmax(1)]
