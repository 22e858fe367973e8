"""What is logged of embeddings, against closed forms and plain numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sslkern.methods.parts.monitor import collapse_metrics


def random_rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_names() -> None:
    z = random_rows(4, 3)
    assert list(collapse_metrics(z)) == ["std", "rankme"]
    assert list(collapse_metrics(z, z)) == ["std", "rankme", "alignment", "uniformity", "accuracy"]
    assert all(type(value) is float for value in collapse_metrics(z, z).values())


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_collapsed_rows(scale: float) -> None:
    row = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    z = scale * row * torch.arange(1, 7, dtype=torch.float64)[:, None]
    metrics = collapse_metrics(z, z.flip(0))
    assert metrics["std"] == pytest.approx(0, abs=1e-7)
    assert metrics["rankme"] == pytest.approx(1, abs=1e-5)
    assert metrics["alignment"] == pytest.approx(0, abs=1e-12)
    assert metrics["uniformity"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dim", [2, 5])
def test_both_ends_of_every_axis_are_healthy(dim: int) -> None:
    """Mean 0 and D ones among the squares: a variance of 1 / D in each of the channels."""
    eye = torch.eye(dim, dtype=torch.float64)
    z = torch.cat([eye, -3 * eye])
    metrics = collapse_metrics(z, 2 * z)
    assert metrics["std"] == pytest.approx(1, rel=1e-12)
    assert metrics["rankme"] == pytest.approx(dim, rel=1e-5)
    assert metrics["alignment"] == pytest.approx(0, abs=1e-12)
    assert metrics["accuracy"] == 1.0
    n = 2 * dim
    pairs = (dim * math.exp(-8) + (n * (n - 1) / 2 - dim) * math.exp(-4)) / (n * (n - 1) / 2)
    assert metrics["uniformity"] == pytest.approx(math.log(pairs), rel=1e-9)


def test_one_hot_rows_have_a_mean() -> None:
    """Of D one-hot rows each channel has the variance 1/D - 1/D^2."""
    metrics = collapse_metrics(torch.eye(4, dtype=torch.float64))
    assert metrics["std"] == pytest.approx(math.sqrt(4 * (1 / 4 - 1 / 16)))


def test_std_is_that_of_the_population_of_unit_rows() -> None:
    z = random_rows(7, 3)
    unit = [[x / math.hypot(*row) for x in row] for row in z.tolist()]
    expected = 0.0
    for channel in zip(*unit, strict=True):
        mean = sum(channel) / 7
        expected += math.sqrt(sum((x - mean) ** 2 for x in channel) / 7) / 3
    assert collapse_metrics(z)["std"] == pytest.approx(expected * math.sqrt(3), rel=1e-12)


def test_isotropic_rows_are_nearly_healthy() -> None:
    std = collapse_metrics(random_rows(2000, 16))["std"]
    assert 0.99 < std <= 1


def test_pairs_against_plain_formulas() -> None:
    z, positive = random_rows(12, 4), random_rows(12, 4, seed=1) + 0.5 * random_rows(12, 4)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (z, positive))
    metrics = collapse_metrics(z, positive)
    assert metrics["alignment"] == pytest.approx(float((a - b).square().sum(1).mean()), rel=1e-9)
    potential = (-2 * torch.pdist(a).square()).exp().mean().log()
    assert metrics["uniformity"] == pytest.approx(float(potential), rel=1e-9)
    hits = (a @ b.T).argmax(1) == torch.arange(12)
    assert metrics["accuracy"] == pytest.approx(float(hits.double().mean()))
    assert 0 < metrics["accuracy"] < 1
    spectrum = torch.linalg.eigvalsh(z.T @ z).sqrt()
    p = spectrum / spectrum.sum()
    assert metrics["rankme"] == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_gradients(dtype: torch.dtype) -> None:
    eye = torch.eye(4, dtype=dtype)
    z = torch.cat([eye, -eye]).requires_grad_()
    metrics = collapse_metrics(z, z)
    assert metrics["std"] == pytest.approx(1, rel=1e-6)
    assert metrics["accuracy"] == 1.0


def test_inputs_are_checked() -> None:
    z = random_rows(4, 3)
    with pytest.raises(ValueError, match=r"sslkern::collapse_metrics: expected z to be of shape"):
        collapse_metrics(z[:1])
    with pytest.raises(TypeError, match=r"expected z to be of dtype .*, got torch.int64"):
        collapse_metrics(z.long())
    with pytest.raises(ValueError, match=r"expected positive to be of the shape of z, \(4, 3\)"):
        collapse_metrics(z, z[:3])
    with pytest.raises(TypeError, match=r"expected positive to be of the dtype of z, torch.float"):
        collapse_metrics(z, z.float())
    with pytest.raises(ValueError, match="expected z to be finite, got nan"):
        collapse_metrics(z.index_fill(0, torch.tensor([1]), math.nan))
