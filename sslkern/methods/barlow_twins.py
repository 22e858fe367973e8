"""Barlow Twins: features of two views agree, and each says something else."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.cross_correlation import barlow_twins_loss


class BarlowTwins(ProjectedMethod):
    r"""Redundancy reduction: the cross-correlation of two views becomes the identity.

    .. math:: \ell = s \Big( \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2 \Big)

    with the correlation :math:`C_{ij}` over the batch of the i-th column of one view's projections
    and the j-th of the other's. Both views take the gradient; each is encoded on its own. Wide
    projections are better, up to 8192 columns, more than the features have.

    The weight of the redundancy is that of the paper's code.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the projections.
        hidden_dim: Width of the head's two hidden layers; D if not given.
        lambda_param: Weight of the redundancy, not negative.
        scale: Factor s of the loss, positive.

    Raises:
        ValueError: If a width or the scale is not positive, or the weight negative.

    Example:
        >>> import torch
        >>> from sslkern.methods import BarlowTwins
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = BarlowTwins(encoder, feature_dim=32, projection_dim=128)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021,
    https://arxiv.org/abs/2103.03230
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 8192,
        hidden_dim: int | None = None,
        lambda_param: float = 0.0051,
        scale: float = 1.0,
    ) -> None:
        hidden_dim = projection_dim if hidden_dim is None else hidden_dim
        widths = [feature_dim, hidden_dim, hidden_dim, projection_dim]
        super().__init__(encoder, feature_dim, mlp(widths))
        check_not_negative(lambda_param, "lambda_param", self.op)
        check_positive_number(scale, "scale", self.op)
        self.lambda_param = lambda_param
        self.scale = scale

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...) with B > 1; one view of each sample.
            view_b: Same shape; another view of the same samples.

        Returns:
            Scalar, not negative.

        Raises:
            ValueError: If the views differ in shape or hold one sample, or the encoder returns
                something else than (B, feature_dim).
        """
        self.check(view_a, view_b)
        z_a, z_b = self.project(view_a), self.project(view_b)
        return barlow_twins_loss(z_a, z_b, self.lambda_param, scale=self.scale)
