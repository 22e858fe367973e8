"""W-MSE: views agree after their projections were whitened, so that they cannot collapse."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from sslkern.methods.method import encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod
from sslkern.ops._common import refuse
from sslkern.ops.wmse import check_sub_batches, wmse_loss


class WMSE(ProjectedMethod):
    r"""Mean squared error of whitened projections, over all pairs of V views.

    .. math:: \ell = \frac{2}{V (V - 1)} \sum_{u < v} \frac{1}{B} \sum_i
              \bigl(2 - 2 \cos(w^u_i, w^v_i)\bigr), \quad w_i = L^{-1} (z_i - \mu)

    with the mean and the Cholesky factor L of the covariance of a random sub-batch of each view's
    projections. The gradient passes through the whitening, of both views. Each view is encoded on
    its own; the head sees all of them together, as in the paper's code. That draws the sub-batches
    once for all pairs, here each pair has its own.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer.
        projection_dim: Width D of the projections.
        w_size: Samples of a sub-batch, at least 2 D; the batch is a multiple of it.
        w_iter: How many times the sub-batches are drawn, of which the loss is the mean.

    Raises:
        ValueError: If a width or count is not positive, or the sub-batches are smaller than 2 D.

    Example:
        >>> import torch
        >>> from sslkern.methods import WMSE
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = WMSE(encoder, feature_dim=32, projection_dim=4, w_size=8)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(*(images + 0.1 * torch.randn_like(images) for _ in range(3))).backward()

    Source: Ermolov et al., "Whitening for Self-Supervised Representation Learning", 2020,
    https://arxiv.org/abs/2007.06346
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 1024,
        projection_dim: int = 64,
        w_size: int = 128,
        w_iter: int = 1,
    ) -> None:
        super().__init__(encoder, feature_dim, mlp([feature_dim, hidden_dim, projection_dim]))
        check_sub_batches(w_size, w_iter)
        if w_size < 2 * projection_dim:
            refuse(self.op, "w_size", f"at least 2 D = {2 * projection_dim}", w_size)
        self.w_size = w_size
        self.w_iter = w_iter

    def forward(self, *views: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            views: (B, ...) each, two or more of the same samples; B a multiple of ``w_size``.

        Returns:
            Scalar from 0 to 4.

        Raises:
            ValueError: For fewer than two views, views that differ in shape, a batch that the
                sub-batches do not divide, an encoder that returns something else than
                (B, feature_dim), or, on the CPU, projections whose covariance is singular.
        """
        if len(views) < 2:
            refuse(self.op, "views", "at least two", len(views))
        self.check(*views)
        if len(views[0]) % self.w_size:
            requirement = f"of a multiple of w_size = {self.w_size} samples"
            refuse(self.op, "a batch", requirement, len(views[0]))
        features = [encode(self.encoder, view, self.feature_dim, self.op) for view in views]
        projections = self.head(torch.cat(features)).chunk(len(views))
        pairs = combinations(projections, 2)
        losses = [wmse_loss(a, b, w_size=self.w_size, w_iter=self.w_iter) for a, b in pairs]
        return torch.stack(losses).mean()
