"""MMCR: the centroids of samples' views fill all directions."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.mmcr import mmcr_loss


class MMCR(ProjectedMethod):
    r"""Maximum manifold capacity of the projections of V views.

    .. math:: \ell = -\lVert C \rVert_* + \frac{\lambda}{B} \sum_b \lVert Z_b \rVert_*

    with the centroids C (B, D) of the samples' views, the views :math:`Z_b` (V, D) of one sample,
    all at unit norm, and the sum of singular values. Centroids are long where views agree, and the
    sum is large where they point everywhere. All views go through encoder and head as one batch.

    The weight is zero as in the authors' code. Its momentum encoder, which the paper adds for few
    views, is left out.

    Args:
        encoder: Maps views (R, ...), for any number R, to features (R, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's two hidden layers.
        projection_dim: Width D of the projections.
        lmda: Weight of the second term, not negative.

    Raises:
        ValueError: If a width is not positive or the weight negative.

    Example:
        >>> import torch
        >>> from sslkern.methods import MMCR
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = MMCR(encoder, feature_dim=32, hidden_dim=64, projection_dim=16)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(*(images + 0.1 * torch.randn_like(images) for _ in range(4))).backward()

    Source: Yerxa et al., "Learning Efficient Coding of Natural Images with Maximum Manifold
    Capacity Representations", 2023, https://arxiv.org/abs/2303.03307
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 8192,
        projection_dim: int = 512,
        lmda: float = 0.0,
    ) -> None:
        widths = [feature_dim, hidden_dim, hidden_dim, projection_dim]
        super().__init__(encoder, feature_dim, mlp(widths))
        check_not_negative(lmda, "lmda", self.op)
        self.lmda = lmda

    def forward(self, *views: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            views: (B, ...) each with B > 1, two or more of the same samples.

        Returns:
            Scalar; without the second term from -sqrt(B min(B, D)) to 0.

        Raises:
            ValueError: For fewer than two views, views that differ in shape, one sample, or an
                encoder that returns something else than (V B, feature_dim).
        """
        if len(views) < 2:
            refuse(self.op, "views", "at least two", len(views))
        self.check(*views)
        return mmcr_loss(self.project_together(views), lmda=self.lmda)
