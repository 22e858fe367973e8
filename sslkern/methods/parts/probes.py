"""How much of the labels can be read from the features, while a method trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts.memory import check_index
from sslkern.ops._common import check_positive_number, check_same_device, refuse
from sslkern.ops._embeddings import check_count, check_rows, full_precision, working_dtype
from sslkern.reference._common import normalize_rows

_SCORES = 1 << 22
"""Similarities that `knn_predict` holds at a time."""


class OnlineLinearProbe(nn.Module):
    """A linear classifier that trains beside the encoder and does not touch it.

    The features are detached: the gradient of the loss reaches the classifier alone. Add the loss
    to that of the method, or give the classifier an optimizer of its own.

    Args:
        feature_dim: Width D of the features.
        classes: Number C of classes.

    Raises:
        ValueError: If a number is not positive.
        TypeError: If a number is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.probes import OnlineLinearProbe
        >>> encoder, probe = torch.nn.Linear(5, 8), OnlineLinearProbe(feature_dim=8, classes=3)
        >>> features, labels = encoder(torch.randn(4, 5)), torch.tensor([0, 1, 2, 1])
        >>> probe(features, labels).backward()
        >>> encoder.weight.grad is None, probe.linear.weight.grad is None
        (True, False)

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, https://arxiv.org/abs/2002.05709, which trains one behind a stopped gradient
    """

    linear: nn.Linear
    """The classifier."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", "OnlineLinearProbe")
        check_count(classes, "classes", "OnlineLinearProbe")
        self.linear = nn.Linear(feature_dim, classes)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the classifier.

        Args:
            features: (N, D), of any floating dtype.
            labels: (N,) int64 in [0, C).

        Returns:
            A scalar, with a gradient for the classifier only.

        Raises:
            ValueError: For a wrong shape or device or, on the CPU, a label out of range.
            TypeError: For a wrong dtype.
        """
        return F.cross_entropy(self._logits(features, labels), labels)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Share of the rows whose largest logit is that of their label.

        Args:
            features: (N, D), of any floating dtype.
            labels: (N,) int64 in [0, C).

        Returns:
            A number in [0, 1], a 0-d float64 tensor.

        Raises:
            ValueError: For a wrong shape or device or, on the CPU, a label out of range.
            TypeError: For a wrong dtype.
        """
        return (self._logits(features, labels).argmax(1) == labels).double().mean()

    def _logits(self, features: Tensor, labels: Tensor) -> Tensor:
        op, weight = "OnlineLinearProbe", self.linear.weight
        check_rows(features, "features", op, least=1)
        check_same_device(features, "features", weight, "the classifier", op)
        if features.shape[1] != weight.shape[1]:
            requirement = f"of shape (N, {weight.shape[1]})"
            refuse(op, "features", requirement, f"shape {tuple(features.shape)}")
        _check_labels(labels, "labels", op, len(weight), features)
        logits: Tensor = self.linear(features.detach().to(weight.dtype))
        return logits


@torch.no_grad()
def knn_predict(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    r"""Vote of the nearest rows of a bank, each with the weight :math:`\exp(\cos / \tau)`.

    The rows are compared in chunks: no N x M matrix is stored.

    Args:
        features: Rows to classify (N, D), of any floating dtype; scaled to unit norm here.
        bank: Rows with labels (M, D), of any floating dtype; scaled to unit norm here.
        bank_labels: Their labels, (M,) int64 in [0, classes).
        classes: Number of classes.
        k: Number of rows that vote, at most M. The paper takes 200, small data sets 20.
        temperature: :math:`\tau`, positive.

    Returns:
        Labels (N,) int64; the smallest one where the votes are equal.

    Raises:
        ValueError: For a wrong shape, device or number or, on the CPU, a label out of range.
        TypeError: For a wrong dtype, or what is no number.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.probes import knn_predict
        >>> bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> features, labels = torch.tensor([[5.0, 1.0], [0.0, 3.0]]), torch.tensor([2, 2, 0])
        >>> knn_predict(features, bank, labels, classes=3, k=2).tolist()
        [2, 0]

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance-level
    Discrimination", 2018, https://arxiv.org/abs/1805.01978
    """
    _check_knn(features, bank, bank_labels, classes, k, temperature)
    dtype = working_dtype(features, bank)
    bank = normalize_rows(bank.to(dtype))
    votes = [
        _vote(normalize_rows(chunk.to(dtype)), bank, bank_labels, classes, k, temperature)
        for chunk in torch.split(features, max(1, _SCORES // max(len(bank), classes)))
    ]
    return torch.cat(votes)


def _vote(
    rows: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float
) -> Tensor:
    with full_precision(rows):
        cosines, nearest = (rows @ bank.T).topk(k)
    # Relative to the nearest row, whose weight is 1: no temperature overflows.
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    votes = weights.new_zeros(len(rows), classes)
    return votes.scatter_add_(1, labels[nearest], weights).argmax(1)


def _check_knn(
    features: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float
) -> None:
    op = "knn_predict"
    check_rows(features, "features", op, least=1)
    check_rows(bank, "bank", op, "MD", least=1)
    check_same_device(bank, "bank", features, "features", op)
    if bank.shape[1] != features.shape[1]:
        refuse(op, "bank", f"of shape (M, {features.shape[1]})", f"shape {tuple(bank.shape)}")
    check_count(classes, "classes", op)
    _check_labels(labels, "bank_labels", op, classes, bank)
    check_count(k, "k", op)
    if k > len(bank):
        refuse(op, "k", f"at most the number of rows of bank, {len(bank)}", k)
    check_positive_number(temperature, "temperature", op)


def _check_labels(labels: Tensor, name: str, op: str, classes: int, rows: Tensor) -> None:
    check_index(labels, name, op, classes, rows)
    if labels.shape != rows.shape[:1]:
        refuse(op, name, f"of shape ({len(rows)},)", f"shape {tuple(labels.shape)}")
