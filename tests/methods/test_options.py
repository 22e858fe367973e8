"""Options of all methods: what is no size or number is refused, in the house's words."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import sslkern.methods
from sslkern.methods import Method, Queue

NEEDED: dict[str, Any] = {
    "feature_dim": 8,
    "map_dim": 8,
    "dim": 8,
    "feature_dims": (8, 8),
    "text_dim": 8,
    "samples": 20,
    "classes": 3,
    "shape": (1, 8, 8),
    "map_size": (4, 4),
    "patch_size": 2,
    "palette": torch.tensor([[0.0, 0.1], [0.2, 0.3]]),
    "counts": torch.tensor([3, 2, 1]),
    "vocabulary": 20,
    "languages": 2,
    "objective": "mlm",
    "mask_token": 1,
}
"""Arguments without a default; others are modules."""
SMALL: dict[str, Any] = {
    "clusters": 4,
    "prototypes": 4,
    "permutations": 10,
    "hidden_dim": 8,
    "projection_dim": 4,
    "queue_size": 16,
    "out_dim": 8,
    "w_size": 16,
}
"""In place of the papers' defaults."""
OF_ONE: dict[str, dict[str, Any]] = {
    "DetCo": {"weights": (1.0, 1.0)},
    "PCL": {"clusters": (2, 4)},
    "MSN": {"patch_size": 2},
    "IBOT": {"patch_size": 2},
    "MAE": {"patch_size": 2},
}
NEGATIVE_IS_FINE = {"bias"}


def methods() -> dict[str, type[Method]]:
    found = {name: getattr(sslkern.methods, name) for name in sslkern.methods.__all__}
    is_one = {n: isinstance(x, type) and issubclass(x, Method) for n, x in found.items()}
    return {name: x for name, x in found.items() if is_one[name] and x is not Method}


def options_of(name: str) -> dict[str, Any]:
    options = {}
    for key, parameter in inspect.signature(methods()[name]).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.default is parameter.empty:
            options[key] = NEEDED[key] if key in NEEDED else nn.Identity()
        else:
            options[key] = SMALL.get(key, parameter.default)
    return options | OF_ONE.get(name, {})


def wrong_values() -> list[tuple[str, str, Any]]:
    cases: list[tuple[str, str, Any]] = []
    for name in methods():
        for key, value in options_of(name).items():
            if isinstance(value, bool):
                continue
            if isinstance(value, int):
                cases += [(name, key, -1), (name, key, 2.5)]
            if isinstance(value, float):
                cases += [(name, key, float("nan")), (name, key, "much")]
                cases += [] if key in NEGATIVE_IS_FINE else [(name, key, -0.5)]
            if "momentum" in key:
                cases.append((name, key, 1.5))
    return cases


@pytest.mark.parametrize("name", methods())
def test_method_takes_its_options(name: str) -> None:
    methods()[name](**options_of(name))


@pytest.mark.parametrize(("name", "key", "value"), wrong_values())
def test_wrong_number_is_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^sslkern::\w+: expected .* to be .*, got"):
        methods()[name](**{**options_of(name), key: value})


def test_size_of_a_queue_is_an_integer() -> None:
    with pytest.raises(TypeError, match="Queue: expected size to be an integer, got float"):
        Queue(2.5, 4)  # type: ignore[arg-type]
