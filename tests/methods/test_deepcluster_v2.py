"""DeepCluster v2 beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import DeepClusterV2

SAMPLES, PROTOTYPES = 20, 4


def make(**options: Any) -> DeepClusterV2:
    torch.manual_seed(0)
    settings = {"projection_dim": 5, "clusterings": 3, "prototypes": PROTOTYPES, **options}
    return DeepClusterV2(small_encoder(), 12, SAMPLES, **settings).double()


def clustered(**options: Any) -> DeepClusterV2:
    model = make(**options)
    model.cluster(torch.Generator().manual_seed(3))
    return model


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    index = [torch.randperm(SAMPLES, generator=generator)[:6] for _ in range(3)]
    return [(i, *views) for views, i in zip(image_batches(views=3), index, strict=True)]


def plain_loss(m: DeepClusterV2, index: Tensor, *crops: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat(crops)))).chunk(3)
    total = 0.0
    for h in range(3):
        target = m.labels[h][index]
        for rows in z:
            logits = rows @ m.prototypes[h].T / m.temperature
            total += -logits.log_softmax(1)[torch.arange(6), target].mean()
    for memory, rows in zip(m.memories, z, strict=False):
        memory.rows[index] = rows.detach()
    return total / 9


def test_steps_equal_the_formula() -> None:
    check_steps(clustered(), plain_loss, batches())


def test_prototypes_are_mean_directions_of_their_samples() -> None:
    """Clusterings take the memories by turns, and stop where nothing moves."""
    model = clustered(iterations=50)
    for h in range(3):
        rows, labels = model.memories[h % 2].rows, model.labels[h]
        means = torch.stack([unit(rows[labels == k].mean(0)) for k in range(PROTOTYPES)])
        torch.testing.assert_close(model.prototypes[h], means)
        assert torch.equal(labels, (rows @ means.T).argmax(1))


def test_remember_fills_the_memories() -> None:
    model = make().eval()
    index, *crops = batches()[0]
    model.remember(index, *crops)
    for memory, crop in zip(model.memories, crops[:2], strict=True):
        expected = unit(model.head(model.encoder(crop)))
        torch.testing.assert_close(memory.rows[index], expected.detach())


def test_prototypes_are_no_parameters() -> None:
    names = {name.split(".")[0] for name, _ in make().named_parameters()}
    assert names == {"encoder", "head"}


def test_evaluation_remembers_nothing() -> None:
    model = clustered().eval()
    before = [memory.rows.clone() for memory in model.memories]
    model(*batches()[0])
    assert all(torch.equal(m.rows, b) for m, b in zip(model.memories, before, strict=True))


def test_labels_are_required_before_the_loss() -> None:
    with pytest.raises(ValueError, match=r"a sample to be labeled by cluster\(\) before the loss"):
        make()(*batches()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": 0}, "DeepClusterV2: expected prototypes to be positive, got 0"),
        ({"prototypes": 21}, "expected prototypes to be at most the number of samples, 20"),
        ({"clusterings": 0}, "expected clusterings to be positive, got 0"),
        ({"remembered_crops": 0}, "expected remembered_crops to be positive, got 0"),
        ({"temperature": 0.0}, "expected temperature to be positive"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_tensors_are_refused() -> None:
    model, (index, *crops) = clustered(), batches()[0]
    with pytest.raises(ValueError, match=r"expected index to be of values in \[0, 20\), got 20"):
        model(index.clamp_min(20), *crops)
    with pytest.raises(ValueError, match="expected crops to be at least 2, got 1"):
        model(index, crops[0])
    with pytest.raises(ValueError, match=r"expected index to be of shape \(6,\), got shape \(5,\)"):
        model(index[:5], *crops)
