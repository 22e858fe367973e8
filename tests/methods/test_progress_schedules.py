"""Schedules against their closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sslkern.methods.parts.schedules import cosine, linear, warmup_cosine


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 0.0),
        (0.05, 0.25),
        (0.1, 0.5),
        (0.2, 1.0),
        (0.2 + 0.8 / 3, 0.75),
        (0.6, 0.5),
        (0.2 + 0.8 * 2 / 3, 0.25),
        (1, 0.0),
    ],
)
def test_warmup_then_cosine(progress: float, expected: float) -> None:
    assert warmup_cosine(progress, warmup=0.2) == pytest.approx(expected, abs=1e-15)


def test_final_factor_and_no_warmup() -> None:
    assert warmup_cosine(1.0, final=0.25) == 0.25
    assert warmup_cosine(0.55, final=0.5) == pytest.approx(0.75)
    assert warmup_cosine(0.0, warmup=0.0) == 1.0
    assert warmup_cosine(1.0, warmup=0.999) == 0.0


def test_defaults_take_a_tenth_to_warm_up() -> None:
    assert warmup_cosine(0.05) == 0.5
    assert warmup_cosine(0.1) == 1.0


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0.996), (0.25, 0.9965857864376269), (0.5, 0.998), (0.75, 0.9994142135623731), (1, 1.0)],
)
def test_cosine_is_the_momentum_of_byol(progress: float, expected: float) -> None:
    assert cosine(0.996, 1, progress) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("step", "angle"), [(1, 20), (2, 40), (7, 140)])
def test_cosine_falls_as_a_cosine(step: int, angle: float) -> None:
    expected = (1 + math.cos(math.radians(angle))) / 2
    assert cosine(1, 0, step / 9) == pytest.approx(expected, rel=1e-14)


def test_linear_is_the_temperature_of_dino() -> None:
    assert linear(0.04, 0.07, 0.5) == pytest.approx(0.055)
    assert linear(0.04, 0.07, 15 / 29) == pytest.approx(0.05551724137931034)
    assert linear(5, -3, 0.75) == -1.0


@pytest.mark.parametrize("schedule", [cosine, linear])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.3), (1e30, 1.0), (-2.0, 7.0)])
def test_ends_are_exact(schedule: Callable[..., float], start: float, end: float) -> None:
    assert schedule(start, end, 0) == start
    assert schedule(start, end, 1) == end


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_is_a_share(progress: float) -> None:
    with pytest.raises(ValueError, match="sslkern::warmup_cosine: expected progress to be from 0"):
        warmup_cosine(progress)
    with pytest.raises(ValueError, match="sslkern::cosine: expected progress to be from 0 to 1"):
        cosine(0, 1, progress)
    with pytest.raises(ValueError, match="sslkern::linear: expected progress to be from 0 to 1"):
        linear(0, 1, progress)


def test_other_arguments_have_ranges() -> None:
    with pytest.raises(ValueError, match="expected warmup to be from 0 to below 1, got 1"):
        warmup_cosine(0.5, warmup=1)
    with pytest.raises(ValueError, match=r"expected final to be from 0 to 1, got -0\.1"):
        warmup_cosine(0.5, final=-0.1)
    with pytest.raises(ValueError, match="sslkern::cosine: expected end to be finite, got inf"):
        cosine(0, math.inf, 0.5)
    with pytest.raises(ValueError, match="sslkern::linear: expected start to be finite, got nan"):
        linear(math.nan, 0, 0.5)


def test_arguments_are_numbers() -> None:
    with pytest.raises(TypeError, match="expected progress to be a number, got str"):
        linear(0, 1, "half")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected warmup to be a number, got bool"):
        warmup_cosine(0.5, warmup=True)
    with pytest.raises(TypeError, match="expected start to be a number, got NoneType"):
        cosine(None, 1, 0.5)  # type: ignore[arg-type]
