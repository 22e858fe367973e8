"""The sampler of word2vec's noise: probabilities, frequencies, rows that never occur."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sslkern.methods import UnigramSampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 1.0, 2.0])
def test_probability_is_a_power_of_the_counts(power: float) -> None:
    counts = torch.tensor([5, 1, 300, 20])
    expected = counts.double() ** power
    actual = UnigramSampler(counts, power).probability
    torch.testing.assert_close(actual, expected / expected.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("power", [0.75, 0.0])
def test_frequencies_follow_the_probabilities(power: float) -> None:
    """Chi-square of 49 degrees of freedom: mean 49, standard deviation 9.9."""
    counts = torch.arange(1, 51) ** 2
    sampler = UnigramSampler(counts, power)
    draws = sampler.sample((500, 400), generator())
    expected = draws.numel() * sampler.probability
    observed = draws.flatten().bincount(minlength=50)
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 49 + 5 * 9.9


def test_draws_are_int64_of_the_shape_and_repeatable() -> None:
    sampler = UnigramSampler(torch.ones(9))
    draws = sampler.sample((3, 4, 5), generator())
    assert (draws.dtype, draws.shape) == (torch.int64, (3, 4, 5))
    assert torch.equal(sampler.sample((3, 4, 5), generator()), draws)
    assert not torch.equal(sampler.sample((3, 4, 5), generator(1)), draws)
    assert sampler.sample((0, 4)).shape == (0, 4)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_rows_that_never_occur_are_never_drawn(power: float) -> None:
    counts = torch.tensor([0, 3, 0, 0, 1, 0])
    sampler = UnigramSampler(counts, power)
    assert set(sampler.sample((10_000,), generator()).tolist()) == {1, 4}
    assert (sampler.probability == 0).tolist() == (counts == 0).tolist()


@pytest.mark.parametrize(("uniform", "row"), [(0.0, 1), (1 - 2**-53, 4)])
def test_ends_of_the_unit_interval_name_rows_that_occur(
    uniform: float, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = UnigramSampler(torch.tensor([0, 3, 0, 0, 1, 0]))

    def rand(shape: tuple[int, ...], **options: object) -> Tensor:
        return torch.full(shape, uniform, dtype=torch.float64)

    monkeypatch.setattr(torch, "rand", rand)
    assert sampler.sample((2,)).tolist() == [row, row]


def test_huge_counts_do_not_overflow() -> None:
    sampler = UnigramSampler(torch.tensor([1e300, 1e300], dtype=torch.float64), 2.0)
    assert sampler.probability.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("counts", "power", "message"),
    [
        (torch.ones(2, 2), 0.75, r"counts to be of shape \(V,\) .* got shape \(2, 2\)"),
        (torch.ones(0), 0.75, r"counts to be of shape \(V,\) .* got shape \(0,\)"),
        (torch.tensor([1.0, -1.0]), 0.75, "counts to be finite, not negative .* from -1 to 1"),
        (torch.tensor([1.0, math.nan]), 0.75, "counts to be finite, not negative .* got values"),
        (torch.tensor([1.0, math.inf]), 0.75, "counts to be finite, .* from 1 to inf"),
        (torch.zeros(3), 0.75, "counts to be .* not all zero, got values from 0 to 0"),
        (torch.ones(3), -0.5, "power to be finite and not negative, got -0.5"),
        (torch.ones(3), math.nan, "power to be finite and not negative, got nan"),
    ],
)
def test_bad_input_is_refused(counts: Tensor, power: float, message: str) -> None:
    with pytest.raises(ValueError, match="^sslkern::UnigramSampler: expected " + message):
        UnigramSampler(counts, power)
