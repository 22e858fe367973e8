"""SupCon: all images of a class attract each other, those of other classes repel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode_views
from sslkern.methods.parts.heads import mlp
from sslkern.ops._common import check_positive_number, check_same_device, check_tensor, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.supcon import check_variant, supcon_loss


class SupCon(Method):
    r"""Contrastive learning with labels: the positives of a view are all views of its class.

    .. math:: \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \log
              \frac{e^{z_i \cdot z_p / \tau}}{\sum_{j \ne i} e^{z_i \cdot z_j / \tau}}

    over the 2B unit projections z of both views, with the other views :math:`P_i` of the class of
    i. The mean is over all 2B views; where each sample is a class of its own, this is SimCLR.
    The variant ``"in"`` has the mean over :math:`P_i` inside the logarithm.

    Both views go through the encoder as one batch. The head has two layers without norms, as in
    the paper's code, whose further factor :math:`\tau / 0.07` is left out, as in the paper. A
    classifier is trained on the frozen encoder afterwards.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width of the projections that the loss compares.
        temperature: tau.
        variant: ``"out"`` or ``"in"``, and what else `sslkern.supcon_loss` has.

    Raises:
        ValueError: If a width or the temperature is not positive, or the variant is unknown.

    Example:
        >>> import torch
        >>> from sslkern.methods import SupCon
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = SupCon(encoder, feature_dim=32)
        >>> images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 4
        >>> model(images, images + 0.1 * torch.randn_like(images), labels).backward()

    Source: Khosla et al., "Supervised Contrastive Learning", 2020,
    https://arxiv.org/abs/2004.11362
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        temperature: float = 0.1,
        variant: str = "out",
    ) -> None:
        super().__init__()
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        for name, value in (("hidden_dim", hidden_dim), ("projection_dim", projection_dim)):
            check_count(value, name, "SupCon")
        check_positive_number(temperature, "temperature", "SupCon")
        check_variant(variant)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, hidden_dim, projection_dim], norm="none")
        self.temperature = temperature
        self.variant = variant

    def forward(self, view_a: Tensor, view_b: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_a: (B, ...); one view of each sample.
            view_b: Same shape; another view of the same samples in the same order.
            labels: Class of each sample, (B,) int64.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, there is not one label per sample, or the
                encoder returns something else than (2B, feature_dim).
            TypeError: If the labels are not int64.
        """
        check_views((view_a, view_b), "SupCon")
        _check_labels(labels, view_a)
        h = encode_views(self.encoder, (view_a, view_b), self.feature_dim, "SupCon")
        return supcon_loss(self.head(h), labels.repeat(2), self.temperature, variant=self.variant)


def _check_labels(labels: Tensor, views: Tensor) -> None:
    check_tensor(labels, "labels", "SupCon")
    check_same_device(labels, "labels", views, "the views", "SupCon")
    if labels.shape != views.shape[:1]:
        refuse("SupCon", "labels", f"of shape ({len(views)},)", f"shape {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(
            f"sslkern::SupCon: expected labels to be of dtype torch.int64, got {labels.dtype}"
        )
