"""K-means against scikit-learn, and what holds for any clusters."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor
from torch.nn import functional as F

from sslkern.methods.parts import kmeans as module
from sslkern.methods.parts.kmeans import kmeans


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(k: int, each: int, dim: int, spread: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in random order, the blob of each, and the means of the blobs."""
    generator = seeded(3)
    centers = 10 * torch.eye(dim, dtype=torch.float64)[:k]
    label = torch.arange(k).repeat(each)[torch.randperm(k * each, generator=generator)]
    noise = torch.randn(k * each, dim, generator=generator, dtype=torch.float64)
    x = centers[label] + spread * noise
    return x, label, torch.stack([x[label == c].mean(0) for c in range(k)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spherical", [False, True])
def test_recovers_separated_blobs(seed: int, spherical: bool) -> None:
    x, label, means = blobs(5, 40, 6)
    if spherical:
        unit = F.normalize(x)
        means = F.normalize(torch.stack([unit[label == c].mean(0) for c in range(5)]))
        x = x * torch.linspace(0.5, 3, 200, dtype=torch.float64)[:, None]
    found = kmeans(x, 5, spherical=spherical, generator=seeded(seed))
    name = found.centroids.argmax(1)  # blob c lies on the axis c
    assert sorted(name.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(name[found.assignment], label)
    torch.testing.assert_close(found.centroids, means[name], rtol=1e-12, atol=1e-12)


def test_inertia_equals_scikit_learn_on_separated_blobs() -> None:
    x, _, _ = blobs(6, 30, 8, spread=0.5)
    theirs = SklearnKMeans(6, n_init=5, random_state=0).fit(x.numpy())
    found = kmeans(x, 6, iterations=50, generator=seeded(0))
    assert float(found.distance.square().sum()) == pytest.approx(theirs.inertia_, rel=1e-10)


def test_inertia_is_near_scikit_learn_without_any_clusters() -> None:
    x = torch.randn(500, 4, generator=seeded(0), dtype=torch.float64)
    theirs = SklearnKMeans(10, n_init=10, random_state=0).fit(x.numpy()).inertia_
    best = min(
        float(kmeans(x, 10, iterations=100, generator=seeded(s)).distance.square().sum())
        for s in range(10)
    )
    assert best == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("elements", [1 << 22, 64, 1])
@pytest.mark.parametrize("spherical", [False, True])
def test_rows_are_with_their_nearest_centroid(
    elements: int, spherical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    x = torch.randn(60, 3, generator=seeded(1), dtype=torch.float64) + 5
    found = kmeans(x, 7, iterations=2, spherical=spherical, generator=seeded(2))
    distances = torch.cdist(
        F.normalize(x) if spherical else x,
        found.centroids,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    nearest = distances.min(1)
    assert torch.equal(found.assignment, nearest.indices)
    torch.testing.assert_close(found.distance, nearest.values, rtol=1e-12, atol=1e-14)


def test_a_converged_centroid_is_the_mean_of_its_rows() -> None:
    x = torch.randn(80, 3, generator=seeded(1), dtype=torch.float64)
    found = kmeans(x, 6, iterations=200, generator=seeded(2))
    for c in range(6):
        torch.testing.assert_close(found.centroids[c], x[found.assignment == c].mean(0))


def test_one_iteration_is_that_of_scikit_learn() -> None:
    """From the same centroids."""
    start = torch.randn(5, 3, generator=seeded(4), dtype=torch.float64)
    x = torch.randn(90, 3, generator=seeded(5), dtype=torch.float64)
    theirs = SklearnKMeans(5, init=start.numpy(), n_init=1, max_iter=1).fit(x.numpy())
    ours = module._lloyd(module._Rows(x, False), start)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.cluster_centers_), rtol=1e-10, atol=0)


def test_an_empty_cluster_takes_the_farthest_row() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [9.0], [5.0]], dtype=torch.float64)
    far = torch.tensor([[1.0], [100.0], [200.0]], dtype=torch.float64)
    means = module._lloyd(module._Rows(x, False), far)
    assert means.flatten().tolist() == [3.4, 9.0, 5.0]


def test_opposite_rows_keep_the_centroid_of_unit_norm() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = kmeans(x, 1, spherical=True, generator=seeded(0))
    assert found.centroids.abs().tolist() == [[1.0, 0.0]]
    assert sorted(found.distance.tolist()) == [0.0, 2.0]


def test_as_many_clusters_as_rows() -> None:
    x = torch.randn(9, 2, generator=seeded(0))
    found = kmeans(x, 9, generator=seeded(0))
    assert sorted(found.assignment.tolist()) == list(range(9))
    assert found.distance.tolist() == [0.0] * 9
    assert torch.equal(found.centroids[found.assignment], x)


def test_fewer_different_rows_than_clusters() -> None:
    x = torch.tensor([[1.0, 2.0]] * 4 + [[3.0, 4.0]])
    found = kmeans(x, 4, generator=seeded(0))
    assert found.distance.tolist() == [0.0] * 5
    assert {tuple(row) for row in found.centroids.tolist()} == {(1.0, 2.0), (3.0, 4.0)}


def test_one_cluster_is_the_mean() -> None:
    x = torch.randn(30, 4, generator=seeded(0), dtype=torch.float64)
    found = kmeans(x, 1)
    torch.testing.assert_close(found.centroids, x.mean(0, keepdim=True))
    torch.testing.assert_close(found.distance, (x - x.mean(0)).norm(dim=1))


def test_the_start_prefers_far_rows() -> None:
    """Squared distances: 1 of the near row, 9 of the far one, so 9 of 10 draws."""
    x = torch.tensor([[0.0], [1.0], [-3.0]], dtype=torch.float64)
    seconds = []
    for seed in range(600):
        first, second = module._plus_plus(module._Rows(x, False), 2, seeded(seed)).flatten()
        assert first != second
        if first == 0:
            seconds.append(float(second))
    share = seconds.count(-3.0) / len(seconds)
    assert len(seconds) / 600 == pytest.approx(1 / 3, abs=0.08)
    assert share == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize("seed", range(10))
def test_the_start_takes_no_row_twice(seed: int) -> None:
    x = torch.randn(8, 2, generator=seeded(0), dtype=torch.float64)
    start = module._plus_plus(module._Rows(x, False), 8, seeded(seed))
    assert sorted(start.tolist()) == sorted(x.tolist())


def test_a_generator_repeats_the_clusters() -> None:
    x = torch.randn(100, 5, generator=seeded(0))
    first, again, other = (kmeans(x, 8, generator=seeded(s)) for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.centroids, other.centroids)


def test_an_offset_of_float32_rows_costs_no_accuracy() -> None:
    x, label, _ = blobs(4, 25, 4)
    found = kmeans((x + 65536).float(), 4, generator=seeded(0))
    name = (found.centroids - 65536).argmax(1)
    assert torch.equal(name[found.assignment], label)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype: torch.dtype, result: torch.dtype) -> None:
    x, label, _ = blobs(3, 20, 3)
    found = kmeans(x.to(dtype).requires_grad_(), 3, generator=seeded(0))
    assert found.centroids.dtype == found.distance.dtype == result
    assert found.assignment.dtype == torch.int64
    assert not found.centroids.requires_grad
    assert torch.equal(found.centroids.argmax(1)[found.assignment], label)


def test_numbers_are_checked() -> None:
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="sslkern::kmeans: expected k to be at most the number of"):
        kmeans(x, 5)
    with pytest.raises(ValueError, match="sslkern::kmeans: expected k to be positive, got 0"):
        kmeans(x, 0)
    with pytest.raises(TypeError, match="expected k to be an integer, got float"):
        kmeans(x, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected iterations to be positive, got 0"):
        kmeans(x, 2, iterations=0)


def test_rows_are_checked() -> None:
    with pytest.raises(TypeError, match=r"expected x to be of dtype .*, got torch.int64"):
        kmeans(torch.ones(4, 2, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"expected x to be of shape \(N, D\) .*got shape \(4,\)"):
        kmeans(torch.ones(4), 2)
    with pytest.raises(ValueError, match="expected x to be finite, got nan"):
        kmeans(torch.tensor([[1.0], [math.nan]]), 1)
    with pytest.raises(ValueError, match="x to be of rows that are not zero with spherical, got a"):
        kmeans(torch.tensor([[1.0], [0.0]]), 1, spherical=True)
