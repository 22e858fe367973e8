"""BYOL: a student predicts what its own average makes of another view; there are no negatives."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod, crossed_cosine
from sslkern.methods.parts.teacher import Teacher


class BYOL(ProjectedMethod):
    r"""Bootstrap your own latent.

    .. math:: \ell = \operatorname{mean}\bigl(2 - 2 \cos(p(z_a), z'_b)\bigr)
              + \operatorname{mean}\bigl(2 - 2 \cos(p(z_b), z'_a)\bigr)

    with the student's projections z and its predictor p, and the projections z' of the teacher, an
    average of the students before that takes no gradient. Its momentum rises to one along a
    cosine. Each view is encoded on its own. The sum of both directions, from 0 to 8, is that of
    the paper's code; some libraries take half of it, or the negative cosine.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the hidden layers of projector and predictor.
        projection_dim: Width D of the projections.
        momentum: Of the teacher at the start, from 0 to 1: 0.996 for 1000 epochs, 0.99 for 300.

    Raises:
        ValueError: If a width is not positive, or the momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import BYOL
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = BYOL(encoder, feature_dim=32, hidden_dim=64, projection_dim=16)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> model.update(progress=0.01)

    Source: Grill et al., "Bootstrap your own latent: A new approach to self-supervised Learning",
    2020, https://arxiv.org/abs/2006.07733
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        momentum: float = 0.996,
    ) -> None:
        super().__init__(encoder, feature_dim, mlp([feature_dim, hidden_dim, projection_dim]))
        self.predictor = mlp([projection_dim, hidden_dim, projection_dim])
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum, "cosine")

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...); one view of each sample.
            view_b: Same shape; another view of the same samples.

        Returns:
            Scalar, the sum of the means of both directions.

        Raises:
            ValueError: If the views differ in shape, hold one sample where the batch norms need
                two, or the encoder returns something else than (B, feature_dim).
        """
        views = (view_a, view_b)
        self.check(*views)
        predictions = [self.predictor(self.project(view)) for view in views]
        targets = [self.teacher(view) for view in views]
        return 4 - 2 * crossed_cosine(predictions, targets)

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)
