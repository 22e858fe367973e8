"""SeLa beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder
from torch import Tensor

from sslkern.methods import SeLa

SAMPLES, CLUSTERS = 20, 4


def make(**options: Any) -> SeLa:
    torch.manual_seed(0)
    settings = {"clusters": CLUSTERS, "heads": 2, **options}
    return SeLa(small_encoder(), 12, SAMPLES, **settings).double()


def features() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(SAMPLES, 12, dtype=torch.float64, generator=generator)


def clustered(**options: Any) -> SeLa:
    model = make(**options)
    model.cluster(features())
    return model


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    index = [torch.randperm(SAMPLES, generator=generator)[:6] for _ in range(3)]
    return [(*views, i) for views, i in zip(image_batches(views=1), index, strict=True)]


def plain_loss(m: SeLa, images: Tensor, index: Tensor) -> Tensor:
    h = m.encoder(images)
    total = 0.0
    for head, labels in zip(m.heads, m.labels, strict=True):
        log_p = (h @ head.weight.T + head.bias).log_softmax(1)
        total += -log_p[torch.arange(6), labels[index]].mean()
    return total / 2


def test_steps_equal_the_formula() -> None:
    check_steps(clustered(), plain_loss, batches())


@pytest.mark.parametrize("sharpness", [2.0, 25.0])
def test_labels_are_those_of_the_scaled_matrix(sharpness: float) -> None:
    """Rows and columns are scaled in turn until the scaling of the samples rests."""
    model = clustered(sharpness=sharpness)
    for head, labels in zip(model.heads, model.labels, strict=True):
        logits = features() @ head.weight.detach().T + head.bias.detach()
        power = logits.softmax(1) ** sharpness
        c = torch.ones(SAMPLES, dtype=torch.float64)
        while True:
            before = c
            r = 1 / CLUSTERS / (power.T @ c)
            c = 1 / SAMPLES / (power @ r)
            if float((before / c - 1).abs().sum()) < 0.1:
                break
        assert torch.equal(labels, (power * r * c[:, None]).argmax(1))


def test_labels_share_the_samples_alike() -> None:
    """Where one label is likeliest for all samples, it still gets its share alone."""
    model = make(heads=1, tolerance=1e-3, iterations=2000)
    with torch.no_grad():
        model.heads[0].weight.copy_(torch.eye(CLUSTERS, 12))
        model.heads[0].bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    groups = torch.arange(SAMPLES) % CLUSTERS
    model.cluster(torch.eye(12, dtype=torch.float64)[groups])
    assert torch.equal(model.labels[0], groups)


def test_clustering_leaves_the_classifiers() -> None:
    model = make()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.cluster(features())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_labels_are_required_before_the_loss() -> None:
    with pytest.raises(ValueError, match=r"a sample to be labeled by cluster\(\) before the loss"):
        make()(*batches()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "SeLa: expected clusters to be positive, got 0"),
        ({"heads": 0}, "expected heads to be positive, got 0"),
        ({"sharpness": 0.0}, "expected sharpness to be positive"),
        ({"tolerance": -1.0}, "expected tolerance to be positive"),
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
        model.cluster(features()[:19])
