"""DeepCluster beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import DeepCluster
from sslkern.methods.deepcluster import whiten

SAMPLES, CLUSTERS = 20, 4


def make(**options: Any) -> DeepCluster:
    torch.manual_seed(0)
    settings = {"clusters": CLUSTERS, "components": 3, **options}
    return DeepCluster(small_encoder(), 12, SAMPLES, **settings).double()


def features(samples: int = SAMPLES) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(samples, 12, dtype=torch.float64, generator=generator)


def clustered(**options: Any) -> DeepCluster:
    model = make(**options)
    model.cluster(features(), torch.Generator().manual_seed(3))
    return model


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    index = [torch.randperm(SAMPLES, generator=generator)[:6] for _ in range(3)]
    return [(*views, i) for views, i in zip(image_batches(views=1), index, strict=True)]


def plain_loss(m: DeepCluster, images: Tensor, index: Tensor) -> Tensor:
    logits = m.encoder(images) @ m.classifier.weight.T + m.classifier.bias
    labels = [int(m.labels[i]) for i in index]
    losses = [-row.log_softmax(0)[y] for row, y in zip(logits, labels, strict=True)]
    weights = [1 / int((m.labels == y).sum()) for y in labels]
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def test_steps_equal_the_formula() -> None:
    check_steps(clustered().double(), plain_loss, batches())


def test_separate_groups_become_clusters() -> None:
    """Groups at the corners of a simplex, whatever the scales of the directions."""
    groups = torch.arange(SAMPLES) % CLUSTERS
    scale = torch.linspace(0.1, 10, 12, dtype=torch.float64)
    model = make()
    model.cluster((10 * torch.eye(CLUSTERS, 12).double()[groups] + 0.01 * features()) * scale)
    pairs = {(int(g), int(y)) for g, y in zip(groups, model.labels, strict=True)}
    assert len(pairs) == CLUSTERS
    assert {y for _, y in pairs} == set(range(CLUSTERS))
    torch.testing.assert_close(model.weight, torch.full((CLUSTERS,), 1 / 5).double())


def test_whitened_components_are_uncorrelated_before_they_are_scaled() -> None:
    x = features(50) @ torch.randn(12, 12, dtype=torch.float64)
    rows = whiten(x, 3)
    centered = x - x.mean(0)
    u, _, _ = torch.linalg.svd(centered, full_matrices=False)
    expected = u[:, :3] / u[:, :3].norm(dim=1, keepdim=True)  # whitened rows, up to their signs
    torch.testing.assert_close(rows @ rows.T, expected @ expected.T)


def test_directions_without_variance_are_left_out() -> None:
    x = torch.cat([features(50)[:, :2], torch.ones(50, 10).double()], 1)
    assert whiten(x, 5).shape == (50, 2)


def test_classifier_begins_anew_with_every_clustering() -> None:
    model = clustered()
    nn.init.ones_(model.classifier.bias)
    before = model.classifier.weight.clone()
    model.cluster(features())
    assert not model.classifier.bias.any()
    assert not torch.equal(model.classifier.weight, before)
    assert float(model.classifier.weight.detach().abs().max()) < 0.06  # six standard deviations


def test_labels_are_required_before_the_loss() -> None:
    with pytest.raises(ValueError, match=r"a sample to be labeled by cluster\(\) before the loss"):
        make()(*batches()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "DeepCluster: expected clusters to be positive, got 0"),
        ({"clusters": 21}, "expected clusters to be at most the number of samples, 20, got 21"),
        ({"components": -1}, "expected components to be positive, got -1"),
        ({"iterations": 0}, "expected iterations to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_tensors_are_refused() -> None:
    model, (images, index) = clustered(), batches()[0]
    with pytest.raises(ValueError, match=r"expected index to be of values in \[0, 20\), got 20"):
        model(images, index.clamp_min(20))
    with pytest.raises(ValueError, match=r"expected index to be of shape \(6,\), got shape \(5,\)"):
        model(images, index[:5])
    with pytest.raises(ValueError, match="of at least 2 samples, which batch normalization needs"):
        model(images[:1], index[:1])
    with pytest.raises(ValueError, match=r"features to be of shape \(20, 12\), got shape \(19"):
        model.cluster(features(19))
