"""SimSiam: one view predicts the other, which takes no gradient; nothing else is needed."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod, crossed_cosine


class SimSiam(ProjectedMethod):
    r"""Siamese networks with a predictor and a stopped gradient.

    .. math:: \ell = -\tfrac{1}{2} \operatorname{mean} \cos(p(z_a), \operatorname{sg}(z_b))
              - \tfrac{1}{2} \operatorname{mean} \cos(p(z_b), \operatorname{sg}(z_a))

    with projections z, the predictor p and :math:`\operatorname{sg}`, which stops the gradient. The
    loss is from -1 to 1. Each view is encoded on its own. The paper keeps the learning rate of the
    predictor constant, which is left to the optimizer.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the projections and of the projector's hidden layers.
        hidden_dim: Width of the predictor's hidden layer; a quarter of D if not given.

    Raises:
        ValueError: If a width is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import SimSiam
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = SimSiam(encoder, feature_dim=32, projection_dim=64)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: Chen and He, "Exploring Simple Siamese Representation Learning", 2020,
    https://arxiv.org/abs/2011.10566
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 2048,
        hidden_dim: int | None = None,
    ) -> None:
        dims = [feature_dim, projection_dim, projection_dim, projection_dim]
        super().__init__(encoder, feature_dim, mlp(dims, last_norm="plain"))
        hidden = projection_dim // 4 if hidden_dim is None else hidden_dim
        self.predictor = mlp([projection_dim, hidden, projection_dim])

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...); one view of each sample.
            view_b: Same shape; another view of the same samples.

        Returns:
            Scalar, the mean of both directions.

        Raises:
            ValueError: If the views differ in shape, hold one sample where the batch norms need
                two, or the encoder returns something else than (B, feature_dim).
        """
        self.check(view_a, view_b)
        projections = [self.project(view) for view in (view_a, view_b)]
        predictions = [self.predictor(z) for z in projections]
        return -crossed_cosine(predictions, projections) / 2
