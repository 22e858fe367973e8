"""What tests of methods on projections share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from steps import follow, image_batches
from torch import Tensor, nn

from sslkern.methods import Method


def rising_teacher(start: float) -> Callable[[Method, float], None]:
    """A teacher of encoder and head whose momentum rises from ``start`` to 1, by formula."""

    def plain_update(m: Method, progress: float) -> None:
        momentum = 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2
        follow(m.teacher.module, nn.Sequential(m.encoder, m.head), momentum)

    return plain_update


def gradients(m: Method, batch: tuple[Tensor, ...]) -> dict[str, Tensor | None]:
    """Of every parameter, after one loss."""
    m.zero_grad()
    m(*batch).backward()
    return {name: p.grad for name, p in m.named_parameters()}


def check_targets_are_given(m: Method) -> None:
    """Where predictions do not depend on the encoder, the loss has no gradient for it.

    The targets still depend on it, so that this fails if they take a gradient.
    """
    with torch.no_grad():
        m.predictor[-1].weight.zero_()
    found = gradients(m, image_batches()[0])
    reached = {name for name, g in found.items() if g is not None and bool(g.any())}
    assert reached == {"predictor.3.weight", "predictor.3.bias"}


def check_shapes(m: Method, views: int = 2) -> None:
    """One sample, other shapes and an encoder of another width are refused."""
    name = type(m).__name__
    one, two = (torch.rand(n, 1, 4, 4, dtype=torch.float64) for n in (1, 2))
    with pytest.raises(ValueError, match=rf"{name}: expected view 1 .* at least 2 samples"):
        m(*[one] * views)
    with pytest.raises(ValueError, match=rf"{name}: expected view {views} .* of view 1"):
        m(*[two] * (views - 1), one)
    m.encoder = nn.Flatten()
    with pytest.raises(ValueError, match=rf"{name}: expected encoder .* that returns the shape"):
        m(*[two] * views)
