"""Perceptrons: which layers have norms, biases and activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sslkern.methods import mlp


def kinds(net: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in net]


def test_hidden_layers_have_norm_and_activation() -> None:
    net = mlp([4, 5, 6, 7])
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(net) == [*hidden, *hidden, "Linear"]
    assert [layer.bias is not None for layer in net if isinstance(layer, nn.Linear)] == [
        False,
        False,
        True,
    ]
    assert net(torch.randn(3, 4)).shape == (3, 7)


def test_last_norm_may_be_without_scale_and_shift() -> None:
    net = mlp([4, 5, 6], last_norm="plain")
    assert kinds(net)[-2:] == ["Linear", "BatchNorm1d"]
    assert net[-2].bias is None
    assert net[1].affine
    assert not net[-1].affine


def test_without_norms_layers_have_biases() -> None:
    net = mlp([4, 5, 6], norm="none", activation=nn.GELU)
    assert kinds(net) == ["Linear", "GELU", "Linear"]
    assert all(layer.bias is not None for layer in net if isinstance(layer, nn.Linear))


def test_layer_norms_keep_the_bias() -> None:
    net = mlp([4, 5, 6], norm="layer")
    assert kinds(net) == ["Linear", "LayerNorm", "ReLU", "Linear"]
    assert net[0].bias is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": [4]}, r"expected dims to be at least two widths, got \[4\]"),
        ({"dims": [4, 0]}, "expected dims to be"),
        ({"dims": [4, 5], "norm": "group"}, "expected norm to be one of batch, layer, plain, none"),
        ({"dims": [4, 5], "last_norm": ""}, "expected last_norm to be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(**arguments)
