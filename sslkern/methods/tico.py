"""TiCo: views agree, and keep away from the directions that the past was in."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops.tico import TiCoState, check_constants, tico_loss


class TiCo(ProjectedMethod):
    r"""Invariance to transformations, and contrast to a moving covariance.

    .. math:: \ell = \frac{1}{B} \sum_i \bigl(1 - z_i \cdot t_i + \rho\, z_i^\top C z_i\bigr), \quad
              C \leftarrow \beta C + \frac{1 - \beta}{B} \sum_i z_i z_i^\top

    with the projections z of one view and the projections t of the other one by a momentum teacher,
    an average of encoder and head over the past, at unit norm. The teacher takes no gradient; its
    momentum rises to 1 along a cosine over the training. C moves in training mode, before it enters
    the loss, in which it is a constant.

    One direction a step, as in the paper.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer.
        projection_dim: Width D of the projections.
        beta: How much of C stays, in [0, 1).
        rho: Weight of the contrast, not negative.
        momentum: Of the teacher at the start, from 0 to 1.

    Raises:
        ValueError: If a width is not positive, beta or the momentum outside its range, or rho
            negative.

    Example:
        >>> import torch
        >>> from sslkern.methods import TiCo
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = TiCo(encoder, feature_dim=32, hidden_dim=64, projection_dim=16)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> model.update(progress=0.01)
        >>> round(model.state.covariance.trace().item(), 4)
        0.1

    Source: Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for
    Self-Supervised Visual Representation Learning", 2022, https://arxiv.org/abs/2206.10698
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        beta: float = 0.9,
        rho: float = 8.0,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(encoder, feature_dim, mlp([feature_dim, hidden_dim, projection_dim]))
        check_constants(beta, rho)
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum, "cosine")
        self.state = TiCoState(projection_dim)
        self.beta = beta
        self.rho = rho

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...) with B > 1; one view of each sample, encoded with a gradient.
            view_b: Same shape; another view of the same samples, for the teacher.

        Returns:
            Scalar, not negative.

        Raises:
            ValueError: If the views differ in shape or hold one sample, or the encoder returns
                something else than (B, feature_dim).
        """
        self.check(view_a, view_b)
        z, target = self.project(view_a), self.teacher(view_b)
        return tico_loss(z, target, self.state, beta=self.beta, rho=self.rho, update=self.training)

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)
