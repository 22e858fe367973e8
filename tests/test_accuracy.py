"""The accuracy rule accepts what rounding explains and nothing else."""

import math

import pytest
import torch

from sslkern import reference
from sslkern.accuracy import FLOOR, assert_accurate, compare, cosine, l2_error, max_error

DTYPES = list(FLOOR)


def test_rule_allows_twice_the_eager_error_and_no_more():
    exact = torch.ones(8, dtype=torch.float64)
    eager = exact + 1e-6
    assert_accurate(exact + 1.9e-6, eager, exact, "sum")
    with pytest.raises(AssertionError, match="sum: largest error"):
        assert_accurate(exact + 2.1e-6, eager, exact, "sum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_floor_applies_where_eager_is_exact(dtype):
    exact = torch.ones(8, dtype=torch.float64)
    eager = exact.to(dtype)
    near = (exact + 0.5 * FLOOR[dtype]).to(dtype)
    far = (exact + 2 * FLOOR[dtype]).to(dtype)
    assert compare(near, eager, exact).passed
    assert not compare(far, eager, exact).passed


def test_message_names_the_worst_index_and_both_errors():
    exact = torch.zeros(3, 4, dtype=torch.float64)
    exact[0, 0] = 1
    actual = exact.clone()
    actual[1, 2] = 0.6
    with pytest.raises(AssertionError, match=r"0\.6 at \[1, 2\] \(eager 0\.25\)"):
        assert_accurate(actual, torch.where(exact == 1, 0.75, exact), exact, "grad")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_fails_even_if_eager_has_it(bad):
    exact = torch.ones(4)
    broken = exact.clone()
    broken[2] = bad
    agreement = compare(broken, broken, exact.double())
    assert not agreement.passed
    assert "at [2] where the reference is 1" in str(agreement)


def test_nan_and_inf_of_the_reference_are_expected():
    exact = torch.tensor([math.nan, math.inf, 1.0], dtype=torch.float64)
    assert compare(exact.float(), exact.float(), exact).passed
    wrong_sign = torch.tensor([math.nan, -math.inf, 1.0])
    assert not compare(wrong_sign, exact.float(), exact).passed
    finite = torch.tensor([0.0, math.inf, 1.0])
    assert not compare(finite, exact.float(), exact).passed


def test_eager_overflow_gives_no_licence():
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    eager = torch.tensor([math.inf, 2.0])
    assert not compare(torch.tensor([1.1, 2.0]), eager, exact).passed


def test_shape_and_dtype_have_to_match():
    exact = torch.ones(4, dtype=torch.float64)
    assert compare(torch.ones(5), torch.ones(4), exact).mismatch == "shape (5,), expected (4,)"
    wrong = compare(torch.ones(4), torch.ones(4).half(), exact)
    assert wrong.mismatch == "dtype torch.float32, expected torch.float16"
    with pytest.raises(ValueError, match="expected eager to have the reference's shape"):
        compare(torch.ones(4), torch.ones(3), exact)


def test_scale_replaces_the_size_of_the_reference():
    exact, actual = torch.tensor(1e-9).double(), torch.tensor(2e-9).double()
    assert max_error(actual, exact) == pytest.approx(1)
    assert max_error(actual, exact, scale=100) == pytest.approx(1e-11)
    assert l2_error(actual, exact, scale=100) == pytest.approx(1e-11)


def test_error_against_zeros_is_absolute():
    zeros = torch.zeros(4, dtype=torch.float64)
    assert max_error(zeros + 0.25, zeros) == 0.25
    assert l2_error(zeros + 0.25, zeros) == 0.5


def test_cosine_tells_a_factor_from_a_direction():
    v = torch.tensor([3.0, 4.0])
    assert cosine(2 * v, v) == pytest.approx(1)
    assert cosine(torch.tensor([-4.0, 3.0]), v) == pytest.approx(0)
    assert cosine(torch.zeros(2), v) == 0
    assert cosine(torch.zeros(2), torch.zeros(2)) == 1


def _other_order(z_a, z_b, temperature):
    """NT-Xent per row with features and rows summed in another order than the reference."""
    z = torch.nn.functional.normalize(torch.cat([z_a, z_b])).flip(1) / temperature.sqrt()
    logits = (z @ z.T).fill_diagonal_(-math.inf)
    parts = [torch.logsumexp(part, 1) for part in logits.split(24, 1)]
    positives = (z * z.roll(len(z_a), 0)).sum(1)
    return torch.stack(parts, 1).logsumexp(1) - positives


@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rule_accepts_another_order_of_summation_but_no_wrong_temperature(dtype, temperature):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 31, 33, generator=generator, dtype=torch.float64).to(dtype)
    tau = torch.tensor(temperature, dtype=dtype)
    exact = reference.ntxent_loss(*z.double(), tau.double(), reduction="none")
    eager = reference.ntxent_loss(*z, tau, reduction="none")
    assert compare(_other_order(*z, tau), eager, exact).passed
    assert not compare(_other_order(*z, tau * (1 + 1e-4)), eager, exact).passed
