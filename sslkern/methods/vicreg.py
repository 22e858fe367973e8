"""VICReg: views agree, every column varies, and no two columns vary together."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.covariance import check_variant, vicreg_loss


class VICReg(ProjectedMethod):
    r"""Variance, invariance and covariance of the projections of two views.

    .. math:: \ell = \lambda \, s(z^a, z^b) + \tfrac{\mu}{2} [v(z^a) + v(z^b)]
              + \nu \, [c(z^a) + c(z^b)]

    with the mean squared difference s, what the standard deviations of the columns lack to one, v,
    and the squared covariances of different columns, c. Both views take the gradient; each is
    encoded on its own.

    Like the paper's code, which halves v and averages s over the columns; the paper's formulas do
    neither.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the projections.
        hidden_dim: Width of the head's two hidden layers; D if not given.
        lambda_param: Weight of the invariance, not negative.
        mu_param: Weight of the variance, not negative.
        nu_param: Weight of the covariance, not negative.
        variant: Of `sslkern.vicreg_loss`: ``"official"``, ``"solo"`` or ``"vibcreg"``.

    Raises:
        ValueError: If a width is not positive, a weight negative, or the variant unknown.

    Example:
        >>> import torch
        >>> from sslkern.methods import VICReg
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = VICReg(encoder, feature_dim=32, projection_dim=128)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 8192,
        hidden_dim: int | None = None,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        variant: str = "official",
    ) -> None:
        hidden_dim = projection_dim if hidden_dim is None else hidden_dim
        widths = [feature_dim, hidden_dim, hidden_dim, projection_dim]
        super().__init__(encoder, feature_dim, mlp(widths))
        self.weights = (lambda_param, mu_param, nu_param)
        names = ("lambda_param", "mu_param", "nu_param")
        for name, weight in zip(names, self.weights, strict=True):
            check_not_negative(weight, name, self.op)
        check_variant(variant)
        self.variant = variant

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
        return vicreg_loss(z_a, z_b, *self.weights, variant=self.variant)
