"""What methods share that look at a head's projections: encoding, and cosines across views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode, encode_views
from sslkern.reference._common import normalize_rows, to_working_dtype


class ProjectedMethod(Method):
    """An encoder and a head, of whose projections the method's loss is.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        head: Maps features (B, feature_dim) to projections (B, D).
    """

    least: ClassVar[int] = 1
    """Samples that the loss needs."""

    def __init__(self, encoder: nn.Module, feature_dim: int, head: nn.Module) -> None:
        super().__init__()
        self.op = type(self).__name__
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = head

    def check(self, *views: Tensor) -> None:
        """Reject views that differ in shape, and fewer samples than loss or batch norms need."""
        check_views(views, self.op, norms=[self], least=self.least)

    def project(self, view: Tensor) -> Tensor:
        """Projections (B, D) of a view on its own.

        Raises:
            ValueError: If the encoder returns something else than (B, feature_dim).
        """
        projections: Tensor = self.head(encode(self.encoder, view, self.feature_dim, self.op))
        return projections

    def project_together(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Projections (B, D) of each of V views, which are encoded as one batch of V B.

        Raises:
            ValueError: If the encoder returns something else than (V B, feature_dim).
        """
        features = encode_views(self.encoder, views, self.feature_dim, self.op)
        return tuple(self.head(features).chunk(len(views)))


def crossed_cosine(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Cosine of a view's predictions (B, D) and the other view's targets, of two views.

    Targets take no gradient.

    Returns:
        Scalar from -2 to 2: the sum of the means of both directions.
    """
    directions = zip(predictions, reversed(targets), strict=True)
    cosines = [(unit_rows(p) * unit_rows(t.detach())).sum(1).mean() for p, t in directions]
    return torch.stack(cosines).sum()


def unit_rows(z: Tensor) -> Tensor:
    """Rows (N, D) at unit norm, float64 for float64, else float32."""
    return normalize_rows(to_working_dtype(z))
