"""Joint embedding: pairs that belong together get less energy than all others of the batch."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.projected import ProjectedMethod, unit_rows
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import full_precision


class JointEmbedding(ProjectedMethod):
    r"""An energy of pairs of views, trained with a hinge against pairs of different samples.

    .. math:: \ell = \frac{1}{B (B - 1)} \sum_i \sum_{j \ne i}
              \max\bigl(0,\; m + E(x_i, y_i) - E(x_i, y_j)\bigr), \quad
              E(x, y) = \Bigl\lVert \frac{z(x)}{\lVert z(x) \rVert}
              - \frac{z(y)}{\lVert z(y) \rVert} \Bigr\rVert^2

    with z = head(encoder(x)). The energy of a positive pair falls and those of the others rise
    until they differ by the margin m, after which a pair of pairs has no gradient. Both views go
    through the same encoder, each on its own, and take the gradient.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the embeddings.
        hidden_dim: Width of the head's hidden layer; the head is linear if not given.
        margin: m, positive; energies are from 0 to 4.

    Raises:
        ValueError: If a width or the margin is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import JointEmbedding
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = JointEmbedding(encoder, feature_dim=32)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: LeCun et al., "A Tutorial on Energy-Based Learning", 2006, for the hinge; Dawid and
    LeCun, "Introduction to Latent Variable Energy-Based Models: A Path Towards Autonomous Machine
    Intelligence", 2023, https://arxiv.org/abs/2306.02572, for joint embedding
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 128,
        hidden_dim: int | None = None,
        margin: float = 1.0,
    ) -> None:
        hidden = [] if hidden_dim is None else [hidden_dim]
        super().__init__(encoder, feature_dim, mlp([feature_dim, *hidden, projection_dim]))
        check_positive_number(margin, "margin", self.op)
        self.margin = margin

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            view_a: (B, ...) with B > 1; one view of each sample, x.
            view_b: Same shape; another view of the same samples, y.

        Returns:
            Scalar, not negative.

        Raises:
            ValueError: If the views differ in shape or hold one sample, or the encoder returns
                something else than (B, feature_dim).
        """
        self.check(view_a, view_b)
        rows_a, rows_b = (unit_rows(self.project(view)) for view in (view_a, view_b))
        with full_precision(rows_a):
            energy = 2 - 2 * rows_a @ rows_b.T
        positive = energy.diagonal()[:, None]
        return (self.margin + positive - self.negatives(energy)).relu().mean()

    def negatives(self, energy: Tensor) -> Tensor:
        """Energies (B, K) that are to rise, of those (B, B) of all pairs: all but the diagonal."""
        count = len(energy)
        return energy.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
