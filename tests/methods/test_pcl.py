"""PCL beside its formula."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import PCL
from sslkern.methods.pcl import concentration

QUEUE, BATCH, SAMPLES, CLUSTERS = 14, 6, 20, (3, 7)


def make(**options: Any) -> PCL:
    torch.manual_seed(0)
    settings = {"clusters": CLUSTERS, "projection_dim": 5, "queue_size": QUEUE, "momentum": 0.9}
    return PCL(small_encoder(), 12, SAMPLES, **{**settings, **options}).double()


def embeddings() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return unit(torch.randn(SAMPLES, 5, dtype=torch.float64, generator=generator))


def clustered() -> PCL:
    model = make()
    model.cluster(embeddings(), torch.Generator().manual_seed(4))
    return model


def batches() -> list[tuple[Tensor, ...]]:
    views = image_batches(batch=BATCH)
    return [(*v, (torch.arange(BATCH) * 3 + i) % SAMPLES) for i, v in enumerate(views)]


def plain_loss(m: PCL, view_query: Tensor, view_key: Tensor, index: Tensor) -> Tensor:
    query = unit(m.head(m.encoder(view_query)))
    with torch.no_grad():
        key = unit(m.teacher.module(view_key))
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ unit(m.queue.rows).T], 1)
    loss = (logits / 0.2).log_softmax(1)[:, 0].mean().neg()
    start = 0
    for i, k in enumerate(CLUSTERS if m.clustered else ()):
        centers = unit(m.centers[start : start + k])
        scores = query @ centers.T / m.concentrations[start : start + k]
        loss = loss + nn.functional.cross_entropy(scores, m.assignments[i][index]) / len(CLUSTERS)
        start += k
    for row in key:
        m.queue.rows[int(m.queue.position)] = row
        m.queue.position.copy_((m.queue.position + 1) % QUEUE)
    return loss


def plain_update(m: PCL, progress: float) -> None:
    follow(m.teacher.module, nn.Sequential(m.encoder, m.head), 0.9)


@pytest.mark.parametrize("model", [make(), clustered()], ids=["warm-up", "clustered"])
def test_steps_equal_the_formula(model: PCL) -> None:
    check_steps(model, plain_loss, batches(), plain_update)


def plain_concentration(distances: list[list[float]], mean: float) -> list[float]:
    """Of the distances in each cluster."""
    phi = [sum(d) / len(d) / math.log(len(d) + 10) if len(d) > 1 else 0.0 for d in distances]
    phi = [p if len(d) > 1 else max(phi) for p, d in zip(phi, distances, strict=True)]
    tenths = statistics.quantiles(phi, n=10, method="inclusive")
    phi = [min(max(p, tenths[0]), tenths[-1]) for p in phi]
    return [mean * p * len(phi) / sum(phi) for p in phi]


def test_clusters_are_those_of_the_embeddings() -> None:
    model, x = clustered(), embeddings()
    start = 0
    for k, assignment in zip(CLUSTERS, model.assignments, strict=True):
        centers = model.centers[start : start + k]
        distance = torch.cdist(x, centers)
        assert torch.equal(distance.argmin(1), assignment)
        members = [[j for j in range(SAMPLES) if assignment[j] == c] for c in range(k)]
        means = torch.stack([x[rows].mean(0) for rows in members])
        torch.testing.assert_close(centers, means, rtol=1e-9, atol=1e-9)
        expected = plain_concentration(
            [distance[rows, c].tolist() for c, rows in enumerate(members)], 0.2
        )
        found = model.concentrations[start : start + k]
        torch.testing.assert_close(found.tolist(), expected, rtol=1e-9, atol=1e-9)
        start += k


def test_concentration_before_scaling_is_the_mean_distance_over_the_log_of_the_size() -> None:
    """Ten samples at distance 1 beside ten at distance 2: 1 / log 20 and 2 / log 20."""
    distance = torch.tensor([1.0] * 10 + [2.0] * 10, dtype=torch.float64)
    assignment = torch.arange(20) // 10
    low, high = 1 / math.log(20), 2 / math.log(20)
    low, high = low + 0.1 * (high - low), high - 0.1 * (high - low)
    mean = (low + high) / 2
    found = concentration(distance, assignment, 2, mean)
    torch.testing.assert_close(found.tolist(), [low, high], rtol=1e-12, atol=0)


def test_samples_on_their_centers_give_the_mean() -> None:
    distance = torch.zeros(6, dtype=torch.float64)
    found = concentration(distance, torch.arange(6) // 2, 3, 0.2)
    torch.testing.assert_close(found.tolist(), [0.2] * 3, rtol=1e-12, atol=0)


def test_embeddings_are_the_teachers_in_evaluation_mode() -> None:
    model = make()
    view = image_batches()[0][0]
    before = [b.clone() for b in model.teacher.buffers()]
    found = model.embed(view)
    assert all(torch.equal(a, b) for a, b in zip(before, model.teacher.buffers(), strict=True))
    assert model.teacher.training
    torch.testing.assert_close(found, unit(model.teacher.module.eval()(view)))


def test_evaluation_remembers_nothing() -> None:
    model = clustered().eval()
    before = model.queue.rows.clone()
    model(*batches()[0])
    assert torch.equal(model.queue.rows, before)
    assert int(model.queue.position) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"momentum": 1.5}, r"expected momentum to be from 0 to 1, got 1\.5"),
        ({"temperature": 0.0}, "PCL: expected temperature to be positive"),
        ({"clusters": ()}, "PCL: expected clusters to be at least one number, got none"),
        ({"clusters": (3, 0)}, "PCL: expected clusters to be positive, got 0"),
        ({"clusters": (21,)}, "PCL: expected clusters to be at most .* samples, 20, got 21"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_arguments_that_do_not_fit_are_refused() -> None:
    view_query, view_key, index = batches()[0]
    model = make()
    with pytest.raises(ValueError, match=r"PCL: expected index to be of shape \(6,\)"):
        model(view_query, view_key, index[:5])
    with pytest.raises(ValueError, match=r"index to be of values in \[0, 20\), got 20"):
        model(view_query, view_key, index + 20 - index[0])
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        model(view_query[:1], view_key[:1], index[:1])
    with pytest.raises(ValueError, match=r"PCL: expected embeddings to be of shape \(20, 5\)"):
        model.cluster(embeddings()[:19])
