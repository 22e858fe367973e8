"""Our losses against the installed libraries that have them: the same numbers in float64.

Those of one operator alone are beside its other tests: ``tests/test_info_nce.py``, and
``tests/test_memory_bank.py`` for lightly's bank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import BarlowTwinsLoss, InfoNCELoss, NTXentLoss, VICRegLoss

pytestmark = pytest.mark.usefixtures("backend")

SIZES = [(2, 3), (7, 16), (40, 33)]
TEMPERATURES = [0.5, 0.07, 0.01]


def load(name: str, module: str) -> Any:
    """The module of a peer; the test is skipped where it is not there, and says why."""
    try:
        return peers.import_peer(name, module)
    except UnavailableError as reason:
        pytest.skip(str(reason))


def views(batch: int, dims: int) -> tuple[Tensor, Tensor]:
    """Two views that correlate little: no loss is next to nothing, even at a low temperature."""
    g = torch.Generator().manual_seed(0)
    shared, noise_a, noise_b = torch.randn(3, batch, dims, generator=g, dtype=torch.float64)
    return shared + 2 * noise_a, shared + 3 * noise_b


def assert_like_peer(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """The same loss and gradients, relative to the largest element."""
    results = []
    for function in (ours, theirs):
        leaves = [z.clone().requires_grad_() for z in inputs]
        loss = function(*leaves)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype == torch.float64
        assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("batch", "dims"), SIZES)
def test_ntxent_equals_lightly(batch: int, dims: int, temperature: float) -> None:
    module = load("lightly", "lightly.loss.ntx_ent_loss")
    theirs = module.NTXentLoss(temperature=temperature)
    assert_like_peer(NTXentLoss(temperature), theirs, *views(batch, dims))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("batch", "dims"), SIZES)
def test_ntxent_equals_pytorch_metric_learning(batch: int, dims: int, temperature: float) -> None:
    losses = load("pytorch-metric-learning", "pytorch_metric_learning.losses")
    theirs = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=temperature))
    assert_like_peer(NTXentLoss(temperature), theirs, *views(batch, dims))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("batch", "dims"), SIZES)
def test_info_nce_equals_one_direction_of_pytorch_metric_learning(
    batch: int, dims: int, temperature: float
) -> None:
    """One view as queries, the other as keys: its name for that is a loss that is not symmetric."""
    losses = load("pytorch-metric-learning", "pytorch_metric_learning.losses")
    ntxent = losses.NTXentLoss(temperature=temperature)
    theirs = losses.SelfSupervisedLoss(ntxent, symmetric=False)
    assert_like_peer(InfoNCELoss(temperature), theirs, *views(batch, dims))


@pytest.mark.parametrize("weight", [0.0051, 1.0])
@pytest.mark.parametrize(("batch", "dims"), [*SIZES, (40, 9), (33, 130)])
def test_barlow_twins_equals_lightly(batch: int, dims: int, weight: float) -> None:
    module = load("lightly", "lightly.loss.barlow_twins_loss")
    theirs = module.BarlowTwinsLoss(lambda_param=weight)
    assert_like_peer(BarlowTwinsLoss(weight), theirs, *views(batch, dims))


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.1, 0.0, 3.0)])
@pytest.mark.parametrize("spread", [0.1, 2.0])
@pytest.mark.parametrize(("batch", "dims"), [*SIZES, (40, 9), (33, 130)])
def test_vicreg_equals_lightly(
    batch: int, dims: int, spread: float, weights: tuple[float, ...]
) -> None:
    module = load("lightly", "lightly.loss.vicreg_loss")
    inputs = (spread * z for z in views(batch, dims))
    assert_like_peer(VICRegLoss(*weights), module.VICRegLoss(*weights), *inputs)
