"""Projection and prediction heads: perceptrons that differ in their norms and biases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count

Norm = Literal["batch", "layer", "plain", "none"]
"""Batch norm, layer norm, batch norm without scale and shift (``affine=False``), none."""
NORMS = ("batch", "layer", "plain", "none")


def mlp(
    dims: Sequence[int],
    *,
    norm: Norm = "batch",
    last_norm: Norm = "none",
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """A perceptron of linear layers; every layer but the last has a norm and an activation.

    A linear layer has a bias where no batch norm follows, which would subtract it again.

    The heads of the methods here, for features of width F:

    ========================  ==================================================================
    SimCLR, SwAV              ``mlp([F, F, D])``; version 2 ``mlp([F, F, F, D])``
    MoCo                      version 1 ``mlp([F, D])``; 2 ``mlp([F, F, D], norm="none")``
    MoCo version 3            projector ``mlp([F, H, H, D], last_norm="plain")``, of ResNets
                              ``mlp([F, H, D], last_norm="plain")``; predictor
                              ``mlp([D, H, D], last_norm="plain")``
    BYOL                      projector ``mlp([F, H, D])``, predictor ``mlp([D, H, D])``
    SimSiam                   projector ``mlp([F, D, D, D], last_norm="plain")``, predictor
                              ``mlp([D, D // 4, D])``
    Barlow Twins, VICReg      ``mlp([F, D, D, D])``
    DINO                      `DINOHead`
    ========================  ==================================================================

    Where papers and their code disagree: SimCLR's paper has no norm in its head, its code one after
    each linear layer, of which the last has a scale and no shift; the nearest to it is
    ``mlp([F, F, D], last_norm="batch")``. The last layers of BYOL, Barlow Twins and VICReg have no
    bias in their code; here they have one, which the losses of the last two do not see.

    Args:
        dims: Widths of the input, the hidden layers and the output: at least two.
        norm: Of hidden layers.
        last_norm: Of the output.
        activation: Of hidden layers.

    Raises:
        ValueError: If there are fewer than two widths, one is not positive or a norm is unknown.

    Example:
        >>> from sslkern.methods import mlp
        >>> head = mlp([512, 512, 128])
        >>> [type(layer).__name__ for layer in head]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
        >>> [layer.bias is not None for layer in (head[0], head[3])]
        [False, True]
    """
    if len(dims) < 2:
        refuse("mlp", "dims", "at least two widths", list(dims))
    for dim in dims:
        check_count(dim, "dims", "mlp")
    for name, value in (("norm", norm), ("last_norm", last_norm)):
        if value not in NORMS:
            refuse("mlp", name, f"one of {', '.join(NORMS)}", repr(value))
    layers: list[nn.Module] = []
    for i, (width, out) in enumerate(pairwise(dims)):
        last = i == len(dims) - 2
        kind = last_norm if last else norm
        layers += [nn.Linear(width, out, bias=kind in ("layer", "none")), *_norm(kind, out)]
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)


def _norm(kind: Norm, dim: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [nn.LayerNorm(dim) if kind == "layer" else nn.BatchNorm1d(dim, affine=kind == "batch")]
