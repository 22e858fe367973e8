"""How good frozen features are: a linear classifier and nearest neighbours on top of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEW_LABELS = 100
DRAWS = 10
NEIGHBOURS = 5
CHUNK = 256


@dataclass(frozen=True)
class Features:
    """Features and labels of the two halves.

    Attributes:
        train: (N, D) floating, with labels (N,) int64: where probes take their labels from.
        test: (M, D) floating, with labels (M,) int64: what they are scored on.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies on the test half, between 0 and 1.

    Attributes:
        linear: Logistic regression on few labels; mean over the draws of the labelled images.
        linear_std: Standard deviation over the draws.
        nearest: The nearest neighbour by cosine among the same images; mean over the draws.
        knn: Vote of the 5 nearest by cosine, with all labels of the training half.
    """

    linear: float
    linear_std: float
    nearest: float
    knn: float


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the features (N, D) in evaluation mode; the mode is restored."""
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        features = torch.cat([encoder(chunk) for chunk in torch.split(images, CHUNK)])
    encoder.train(was_training)
    return features


def probe(
    features: Features,
    generator: torch.Generator,
    *,
    few_labels: int = FEW_LABELS,
    draws: int = DRAWS,
) -> ProbeResult:
    """Score features with few labels, averaged over random draws, and with all of them.

    Both classifiers see the features centred and divided by one number, not by one per feature:
    the relative scale of pixels and features carries information (standardised pixels score about
    0.013 lower).

    Args:
        features: Of both halves.
        generator: Draws the labelled images; the same state gives the same images.
        few_labels: Labelled images per draw, not balanced by class.
        draws: How many times they are drawn.
    """
    train, test = center_and_scale(features.train, features.test)
    linear, nearest = [], []
    for _ in range(draws):
        index = torch.randperm(len(train), generator=generator)[:few_labels]
        few, labels = train[index], features.train_labels[index]
        linear.append(linear_accuracy(few, labels, test, features.test_labels))
        nearest.append(knn_accuracy(few, labels, test, features.test_labels, neighbours=1))
    knn = knn_accuracy(train, features.train_labels, test, features.test_labels, NEIGHBOURS)
    mean = statistics.fmean
    return ProbeResult(mean(linear), statistics.pstdev(linear), mean(nearest), knn)


def center_and_scale(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Shift by the mean of ``train`` (N, D) and divide by its root mean square, as one number."""
    mean = train.mean(0)
    scale = (train - mean).square().mean().sqrt()
    return (train - mean) / scale, (test - mean) / scale


def linear_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy of multinomial logistic regression with scikit-learn's default L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=5000).fit(train.numpy(), labels.numpy())
    return float(classifier.score(test.numpy(), test_labels.numpy()))


def knn_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, neighbours: int
) -> float:
    """Accuracy of the vote of the nearest rows by cosine similarity."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    classifier.fit(train.numpy(), labels.numpy())
    return float(classifier.score(test.numpy(), test_labels.numpy()))
