"""Probes against plain formulas and scikit-learn's neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts import probes
from sslkern.methods.parts.probes import OnlineLinearProbe, knn_predict


def random_data(n: int, d: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def test_the_loss_is_the_cross_entropy_of_its_logits() -> None:
    probe = OnlineLinearProbe(4, 3).double()
    x, labels = random_data(6, 4, 3, seed=0)
    expected = 0.0
    logits = (x @ probe.linear.weight.T + probe.linear.bias).detach()
    for row, label in zip(logits, labels, strict=True):
        expected += float(row.exp().sum().log() - row[label]) / 6
    assert probe(x, labels).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_reaches_the_classifier_alone() -> None:
    encoder, probe = nn.Linear(5, 4), OnlineLinearProbe(4, 3)
    features, labels = encoder(torch.randn(6, 5)), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = probe(features, labels) + 2 * features.sum()
    loss.backward()
    torch.testing.assert_close(encoder.bias.grad, torch.full((4,), 12.0))
    residual = probe.linear(features).softmax(1) - F.one_hot(labels, 3)
    torch.testing.assert_close(probe.linear.weight.grad, residual.T @ features / 6)


def test_accuracy_counts_the_largest_logits() -> None:
    probe = OnlineLinearProbe(3, 3)
    with torch.no_grad():
        probe.linear.weight.copy_(torch.eye(3))
        probe.linear.bias.zero_()
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 2, 1]])
    accuracy = probe.accuracy(features.requires_grad_(), torch.tensor([0, 1, 2, 2]))
    assert accuracy.item() == 0.75
    assert accuracy.dtype == torch.float64
    assert not accuracy.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_probe_takes_features_of_any_dtype(dtype: torch.dtype) -> None:
    probe = OnlineLinearProbe(2, 2)
    features, labels = torch.tensor([[1.0, -2.0], [0.5, 4.0]]), torch.tensor([1, 0])
    assert torch.equal(probe(features.to(dtype), labels), probe(features, labels))


def test_the_probe_learns_separable_classes() -> None:
    labels = torch.arange(60) % 3
    features = F.one_hot(labels, 3) + 0.1 * torch.randn(60, 3)
    probe = OnlineLinearProbe(3, 3)
    optimizer = torch.optim.SGD(probe.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        probe(features, labels).backward()
        optimizer.step()
    assert probe.accuracy(features, labels).item() == 1.0


def test_the_probe_is_saved_and_restored() -> None:
    probe, restored = OnlineLinearProbe(4, 3), OnlineLinearProbe(4, 3)
    restored.load_state_dict(probe.state_dict())
    x, labels = random_data(6, 4, 3, seed=0)
    assert torch.equal(probe(x, labels), restored(x, labels))


def test_the_probe_checks_its_sizes() -> None:
    with pytest.raises(ValueError, match="OnlineLinearProbe: expected feature_dim to be positive"):
        OnlineLinearProbe(0, 3)
    with pytest.raises(TypeError, match="expected classes to be an integer, got float"):
        OnlineLinearProbe(4, 3.0)  # type: ignore[arg-type]


def test_the_probe_checks_its_inputs() -> None:
    probe, labels = OnlineLinearProbe(4, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"features to be of shape \(N, 4\), got shape \(2, 5\)"):
        probe(torch.zeros(2, 5), labels)
    with pytest.raises(ValueError, match=r"features to be of shape \(N, D\) .*got shape \(4,\)"):
        probe.accuracy(torch.zeros(4), labels)
    with pytest.raises(ValueError, match="features to be on the device of the classifier, cpu"):
        probe(torch.zeros(2, 4, device="meta"), labels)
    with pytest.raises(ValueError, match=r"labels to be of shape \(2,\), got shape \(2, 1\)"):
        probe(torch.zeros(2, 4), labels[:, None])
    with pytest.raises(ValueError, match=r"labels to be of values in \[0, 3\), got 3"):
        probe(torch.zeros(2, 4), labels + 2)
    with pytest.raises(TypeError, match=r"labels to be of dtype torch.int64, got torch.float32"):
        probe(torch.zeros(2, 4), labels.float())


def plain_knn(
    features: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float
) -> list[int]:
    """Row by row, in Python's numbers."""
    result = []
    for x in features:
        cosines = [float(F.cosine_similarity(x, row, dim=0)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
        votes = [0.0] * classes
        for i in nearest:
            votes[int(labels[i])] += math.exp(cosines[i] / temperature)
        result.append(votes.index(max(votes)))
    return result


@pytest.mark.parametrize("scores", [1 << 22, 40, 1])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 10.0), (30, 0.5)])
def test_votes_equal_the_formula(
    scores: int, k: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_SCORES", scores)
    bank, labels = random_data(30, 3, 4, seed=1)
    features, _ = random_data(11, 3, 4, seed=2)
    expected = plain_knn(features, bank, labels, 4, k, temperature)
    assert knn_predict(features, bank, labels, 4, k, temperature).tolist() == expected


def test_votes_equal_scikit_learn() -> None:
    bank, labels = random_data(200, 5, 3, seed=3)
    features, _ = random_data(50, 5, 3, seed=4)

    def weights(distance: object) -> object:
        return torch.from_numpy((1 - distance) / 0.07).exp().numpy()

    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights)
    theirs.fit(bank.numpy(), labels.numpy())
    expected = theirs.predict(features.numpy()).tolist()
    assert knn_predict(features, bank, labels, 3).tolist() == expected


def test_the_temperature_weighs_near_rows_against_many() -> None:
    angle = torch.tensor([0.0, 0.5, 0.6])
    bank = torch.stack([angle.cos(), angle.sin()], 1)
    labels, query = torch.tensor([1, 0, 0]), torch.tensor([[1.0, 0.0]])
    assert knn_predict(query, bank, labels, 2, k=3, temperature=0.05).item() == 1
    assert knn_predict(query, bank, labels, 2, k=3, temperature=5.0).item() == 0
    assert knn_predict(query, bank, labels, 2, k=3, temperature=1e-6).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_votes_take_any_dtype_and_norm(dtype: torch.dtype) -> None:
    bank = torch.eye(3)
    features = 100 * (torch.eye(3).flip(0) + 0.1).to(dtype)
    labels = torch.tensor([5, 0, 2])
    assert knn_predict(features, bank, labels, 6, k=2).tolist() == [2, 0, 5]


def test_votes_check_their_inputs() -> None:
    x, bank, labels = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="expected k to be at most the number of rows of bank, 4"):
        knn_predict(x, bank, labels, 2, k=5)
    with pytest.raises(ValueError, match="sslkern::knn_predict: expected k to be positive, got 0"):
        knn_predict(x, bank, labels, 2, k=0)
    with pytest.raises(ValueError, match="expected temperature to be positive and finite, got 0"):
        knn_predict(x, bank, labels, 2, k=1, temperature=0)
    with pytest.raises(ValueError, match="expected classes to be positive, got 0"):
        knn_predict(x, bank, labels, 0, k=1)
    with pytest.raises(ValueError, match=r"bank_labels to be of values in \[0, 1\), got 1"):
        knn_predict(x, bank, labels, 1, k=1)
    with pytest.raises(ValueError, match=r"bank_labels to be of shape \(4,\), got shape \(3,\)"):
        knn_predict(x, bank, labels[:3], 2, k=1)
    with pytest.raises(TypeError, match=r"bank_labels to be of dtype torch.int64, got torch.int3"):
        knn_predict(x, bank, labels.int(), 2, k=1)
    with pytest.raises(ValueError, match=r"bank to be of shape \(M, 3\), got shape \(4, 2\)"):
        knn_predict(x, bank[:, :2], labels, 2, k=1)
    with pytest.raises(ValueError, match="bank to be on the device of features, cpu, got meta"):
        knn_predict(x, bank.to("meta"), labels, 2, k=1)
    with pytest.raises(TypeError, match=r"features to be of dtype .*, got torch.int64"):
        knn_predict(x.long(), bank, labels, 2, k=1)
