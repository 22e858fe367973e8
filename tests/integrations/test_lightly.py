"""lightly's public classes before and after `patch_lightly`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from before_and_after import (
    assert_falls_back,
    assert_graphs_are_kept_as_asked,
    assert_methods_come_back,
    assert_modules_stay,
    assert_patch_is_accurate,
    assert_patch_keeps_numbers,
    assert_same,
    assert_same_error,
    assert_second_derivative_stays,
    assert_training_goes_the_same_way,
    evaluate,
    one_fallback,
    runs_ours,
)
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd import forward_ad

from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.integrations import patch_lightly

try:
    lightly: Any = peers.import_peer("lightly", "lightly.loss")
except UnavailableError as reason:
    pytest.skip(str(reason), allow_module_level=True)

# lightly copies a tensor in a way that torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def views(batch: int, dims: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shared = rows(batch, dims)
    return [(shared + rows(batch, dims, seed=seed)).to(dtype) for seed in (1, 2)]


class Swav(nn.Module):
    """Three views of high resolution, the last two as arguments of low resolution, and queues."""

    def __init__(self, queue: bool, **options: Any) -> None:
        super().__init__()
        self.loss = lightly.SwaVLoss(**options)
        self.queue = queue

    def forward(self, *scores: Tensor) -> Tensor:
        queue = [rows(12, scores[0].shape[1], seed=9).to(scores[0]) / 4] * 2 if self.queue else None
        return self.loss(list(scores[:2]), list(scores[2:]), queue)


class Views(nn.Module):
    """A loss of a list."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *views: Tensor) -> Tensor:
        return self.loss(list(views))


def of_views(name: str, **options: Any) -> tuple[Callable[[], nn.Module], Any]:
    return partial(getattr(lightly, name), **options), views


def of_scores(**options: Any) -> tuple[Callable[[], nn.Module], Any]:
    def scores(batch: int, dims: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [(rows(batch, dims, seed=seed) / 4).to(dtype) for seed in range(4)]

    return partial(Swav, **options), scores


def of_manifolds(**options: Any) -> tuple[Callable[[], nn.Module], Any]:
    def manifolds(batch: int, dims: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [rows(batch, 3, dims, seed=seed, dtype=dtype) for seed in (0, 1)]

    return partial(lightly.MMCRLoss, **options), manifolds


def _squared_distance(out0: Tensor, out1: Tensor) -> Tensor:
    return (out0 - out1).square().sum(1)


CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "ntxent": of_views("NTXentLoss"),
    "ntxent, cold": of_views("NTXentLoss", temperature=0.05),
    "ntxent, one process": of_views("NTXentLoss", gather_distributed=True),
    "directclr": of_views("DirectCLRLoss", loss_dim=3),
    "dcl": of_views("DCLLoss"),
    "dcl, weights": of_views("DCLLoss", weight_fn=_squared_distance),
    "dclw": of_views("DCLWLoss", sigma=0.7),
    "swav": of_scores(queue=False),
    "swav, settings": of_scores(
        queue=False, temperature=0.2, sinkhorn_iterations=5, sinkhorn_epsilon=0.1
    ),
    "swav, queue": of_scores(queue=True),
    "barlow": of_views("BarlowTwinsLoss"),
    "barlow, weight": of_views("BarlowTwinsLoss", lambda_param=0.3),
    "vicreg": of_views("VICRegLoss"),
    "vicreg, weights": of_views(
        "VICRegLoss", lambda_param=1.0, mu_param=0.5, nu_param=3.0, eps=0.1
    ),
    "tico": of_views("TiCoLoss"),
    "tico, numbers": of_views("TiCoLoss", beta=0.5, rho=2.0),
    "mmcr": of_manifolds(),
    "mmcr, weight": of_manifolds(lmda=0.5),
    "frossl": (lambda: Views(lightly.FroSSLLoss(invariance_weight=0.7)), views),
}
# Compositions of eager PyTorch on both sides; the others have kernels.
EAGER = {"tico", "tico, numbers", "mmcr", "mmcr, weight", "frossl"}
CLASSES = [
    *("NTXentLoss", "DCLLoss", "SwaVLoss", "BarlowTwinsLoss", "VICRegLoss"),
    *("TiCoLoss", "MMCRLoss", "FroSSLLoss"),
]


# ---- the same numbers


@pytest.mark.parametrize(("batch", "dims"), [(2, 4), (9, 5), (40, 33)])
@pytest.mark.parametrize("case", CASES)
def test_numbers_stay(case: str, batch: int, dims: int) -> None:
    make, inputs = CASES[case]
    if "tico" in case:  # the covariance moves in each call
        make = partial(_Fresh, make)
    assert_patch_keeps_numbers(patch_lightly, make, *inputs(batch, dims))


class _Fresh(nn.Module):
    """A new loss for each call."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.make = make

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.make()(*inputs)


@pytest.mark.parametrize("case", sorted(CASES.keys() - EAGER))
def test_operators_are_ours(case: str) -> None:
    make, inputs = CASES[case]
    loss = make()
    call = partial(loss, *inputs(9, 5))
    assert not runs_ours(call)
    with patch_lightly():
        assert runs_ours(call)
    assert not runs_ours(call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"mmcr", "mmcr, weight"}))
def test_lower_dtypes_are_as_accurate(case: str, dtype: torch.dtype) -> None:
    make, inputs = CASES[case]
    assert_patch_is_accurate(patch_lightly, make, *inputs(24, 17, dtype))


def test_mmcr_in_float32() -> None:
    """Lightly's has no singular values in half types."""
    make, inputs = CASES["mmcr"]
    assert_patch_is_accurate(patch_lightly, make, *inputs(9, 7, torch.float32))


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("size", [8, 10])
def test_memory_bank_is_that_of_lightly(size: int, gather: bool) -> None:
    """10 rows are no multiple of the batch: lightly drops rows at the end of its bank."""

    def steps(patched: Callable[[], Any] | None) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(0)
        loss_fn = lightly.NTXentLoss(0.2, (size, 5), gather).double()
        patch = None if patched is None else patched()
        found = []
        for step in range(6):
            a, b = (rows(4, 5, seed=10 * step + k) for k in (0, 1))
            found += evaluate(lambda a, b: loss_fn(a, b) + loss_fn(b, a.detach()), a, b)
            found.append(loss_fn(a, b))  # evaluation: the bank stays
        if patch is not None:
            assert runs_ours(partial(loss_fn, a, b))
            patch.unpatch()
        return found, loss_fn.memory_bank.bank

    expected, bank = steps(None)
    got, own = steps(patch_lightly)
    assert_same(got, expected, 1e-9)
    torch.testing.assert_close(own, bank, rtol=0, atol=0)


def test_memory_bank_under_autocast() -> None:
    """Half embeddings against a bank in float32, which lightly takes nowhere else."""
    loss_fn = lightly.NTXentLoss(0.2, (8, 5))
    a, b = (x.to(torch.bfloat16) for x in views(4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss_fn(a, b)
        with patch_lightly():
            got = loss_fn(a, b)
    assert got.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=0)


def test_tico_moves_its_covariance() -> None:
    def steps(patched: bool) -> list[Tensor]:
        loss_fn, found = lightly.TiCoLoss(), []
        for step in range(4):
            a, b = (rows(6, 4, seed=10 * step + k) for k in (0, 1))
            if patched and step in (1, 2):  # before and after as well: the state is lightly's
                with patch_lightly():
                    found.append(loss_fn(a, b, update_covariance_matrix=step != 2))
            else:
                found.append(loss_fn(a, b, update_covariance_matrix=step != 2))
            found.append(loss_fn.C)
        return found

    assert_same(steps(True), steps(False), 1e-12)


# ---- gradients of gradients, of settings, of one input from another

TWICE = ["ntxent", "dcl", "dclw", "swav, queue", "barlow", "vicreg", "tico", "mmcr", "frossl"]


@pytest.mark.parametrize("case", TWICE)
def test_second_derivatives_stay(case: str) -> None:
    make, inputs = CASES[case]
    make = partial(_Fresh, make)
    assert_second_derivative_stays(patch_lightly, make, *inputs(7, 5))
    assert_graphs_are_kept_as_asked(patch_lightly, make, *inputs(7, 5))


def test_nothing_is_held_after_the_backward_pass() -> None:
    """Of a loss that a training loop adds up with its graph."""
    with patch_lightly():
        a, b = (x.requires_grad_() * 1 for x in views(6, 4))
        loss = lightly.NTXentLoss()(a, b.detach()) + lightly.DCLLoss()(a, b)
        held = [weakref.ref(x) for x in (a, b)]
        del a, b
        gc.collect()
        assert None not in [x() for x in held]
        loss.backward()
        gc.collect()
        assert [x() for x in held] == [None, None]


def test_second_derivative_of_a_view_made_from_the_other() -> None:
    def call(a: Tensor) -> Tensor:
        b = a.sin()
        loss = lightly.NTXentLoss()(a, b)
        return loss + sum(
            grad.square().sum() for grad in torch.autograd.grad(loss, (a, b), create_graph=True)
        )

    expected = evaluate(call, views(6, 4)[0])
    with patch_lightly():
        assert_same(evaluate(call, views(6, 4)[0]), expected, 1e-9)


def test_both_views_may_be_one_tensor() -> None:
    assert_patch_keeps_numbers(patch_lightly, _WithItself, views(6, 4)[0])


class _WithItself(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return lightly.NTXentLoss()(a, a) + lightly.VICRegLoss()(a, a)


def test_other_sequences_than_lists_get_their_gradients() -> None:
    class Views(list):
        """Of which PyTorch does not know that it holds tensors."""

    def call(*scores: Tensor) -> Tensor:
        return lightly.SwaVLoss()(Views(scores[:2]), list(scores[2:]))

    inputs = [x / 4 for x in (*views(6, 4), *views(6, 4))]
    expected = evaluate(call, *inputs)
    with patch_lightly():
        assert runs_ours(partial(call, *inputs))
        assert_same(evaluate(call, *inputs), expected, 1e-9)


def test_temperature_gets_its_gradient() -> None:
    def call(temperature: Tensor) -> Tensor:
        return lightly.NTXentLoss(temperature)(*views(6, 4))

    temperature = torch.tensor(0.3, dtype=torch.float64)
    expected = evaluate(call, temperature)
    with patch_lightly():
        assert runs_ours(partial(call, temperature))
        assert_same(evaluate(call, temperature), expected, 1e-9)


def test_weights_get_their_gradient() -> None:
    def call(power: Tensor) -> Tensor:
        loss = lightly.DCLLoss(weight_fn=lambda a, b: _squared_distance(a, b) ** power)
        a, b = views(6, 4)
        return loss(a.requires_grad_(), b)

    power = torch.tensor(1.5, dtype=torch.float64)
    expected = evaluate(call, power)
    with patch_lightly():
        assert_same(evaluate(call, power), expected, 1e-9)


def test_transforms_of_torch_func_run_the_code_of_lightly() -> None:
    a, b = views(6, 4)
    for transform in (torch.func.grad, torch.func.hessian):
        call = transform(lightly.NTXentLoss())
        expected = call(a, b)
        with patch_lightly(), one_fallback("a transform of torch.func"):
            assert torch.equal(call(a, b), expected)


def test_forward_mode_runs_the_code_of_lightly() -> None:
    a, b = views(6, 4)

    def tangent() -> Tensor:
        with forward_ad.dual_level():
            loss = lightly.NTXentLoss()(forward_ad.make_dual(a, b), b)
            return forward_ad.unpack_dual(loss).tangent

    expected = tangent()
    with patch_lightly(), one_fallback("a forward-mode derivative"):
        assert torch.equal(tangent(), expected)


# ---- the same classes


@pytest.mark.parametrize("name", CLASSES)
def test_methods_come_back(name: str) -> None:
    assert_methods_come_back(patch_lightly, getattr(lightly, name), "forward")


@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss", "BarlowTwinsLoss", "VICRegLoss"])
def test_modules_stay(name: str) -> None:
    assert_modules_stay(patch_lightly, getattr(lightly, name), *views(6, 4))


def test_names_of_both_modules_are_replaced() -> None:
    from lightly.loss.ntx_ent_loss import NTXentLoss

    with patch_lightly():
        assert NTXentLoss is lightly.NTXentLoss
        assert runs_ours(partial(NTXentLoss(), *views(3, 4)))


def test_subclass_may_call_the_forward_of_its_base() -> None:
    class Doubled(lightly.NTXentLoss):
        def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
            return 2 * super().forward(out0, out1)

    assert_patch_keeps_numbers(patch_lightly, Doubled, *views(6, 4))
    with patch_lightly():
        assert runs_ours(partial(Doubled(), *views(6, 4)))


# ---- what ours does not serve


def _smoothed() -> nn.Module:
    loss = lightly.NTXentLoss()
    loss.cross_entropy = nn.CrossEntropyLoss(label_smoothing=0.1)
    return loss


class _OwnSubloss(lightly.SwaVLoss):
    def subloss(self, z: Tensor, q: Tensor) -> Tensor:
        return super().subloss(z, q) / 2


FALLBACKS: dict[str, tuple[Callable[..., Tensor], str, list[Tensor]]] = {
    "negative temperature": (
        lightly.NTXentLoss(temperature=-0.5),
        "temperature to be positive",
        views(6, 4),
    ),
    "label smoothing": (_smoothed(), "another cross_entropy", views(6, 4)),
    "dimensions": (lightly.VICRegLoss(), "z_a to be", [rows(6, 2, 4), rows(6, 2, 4, seed=1)]),
    "subclass": (
        lambda a, b: _OwnSubloss()([a, b], []),
        "subloss of a subclass",
        [rows(8, 4) / 4, rows(8, 4, seed=1) / 4],
    ),
    "no iterations": (
        lambda a, b: lightly.SwaVLoss(sinkhorn_iterations=0)([a, b], []),
        "sinkhorn_iterations of 0",
        [rows(8, 4) / 4, rows(8, 4, seed=1) / 4],
    ),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_falls_back_with_one_warning(case: str) -> None:
    call, reason, inputs = FALLBACKS[case]
    assert_falls_back(patch_lightly, call, reason, *inputs)


ERRORS: dict[str, Callable[[], Any]] = {
    "construction": lambda: lightly.NTXentLoss(temperature=0.0),
    "bank": lambda: lightly.NTXentLoss(memory_bank_size=8),
    "weight": lambda: lightly.MMCRLoss(lmda=-1.0),
    "arguments": lambda: lightly.NTXentLoss()(rows(3, 4)),
    "no tensor": lambda: lightly.BarlowTwinsLoss()([1.0], [2.0]),
    "shapes": lambda: lightly.VICRegLoss()(rows(3, 4), rows(3, 5)),
    "one row": lambda: lightly.TiCoLoss()(rows(1, 4), rows(1, 4)),
    "one row to normalise": lambda: lightly.BarlowTwinsLoss()(rows(1, 4), rows(1, 4)),
    "views": lambda: lightly.FroSSLLoss()([rows(3, 4)]),
    "dtypes": lambda: lightly.NTXentLoss()(rows(3, 4), rows(3, 4).float()),
    "manifolds": lambda: lightly.MMCRLoss()(rows(3, 2, 4), rows(3, 3, 4)),
    "weights": lambda: lightly.DCLLoss(weight_fn=lambda a, b: a[:1, :1, :1])(*views(3, 4)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_lightly(case: str) -> None:
    assert_same_error(patch_lightly, ERRORS[case])


def test_row_of_zeros_gets_no_gradient() -> None:
    """The difference that the docstring names: lightly divides the gradient by 1e-12."""
    a, b = views(4, 3)
    a[0] = 0
    theirs = evaluate(lightly.NTXentLoss(), a, b)
    with patch_lightly():
        ours = evaluate(lightly.NTXentLoss(), a, b)
    assert theirs[1][0].abs().max() > 1e9
    assert not ours[1][0].any()
    assert_same([ours[0], ours[1][1:], ours[2]], [theirs[0], theirs[1][1:], theirs[2]], 1e-9)


# ---- training, as lightly's examples do it


class _SimCLR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.projection_head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))


def _train() -> list[float]:
    torch.manual_seed(0)
    digits = torch.tensor(load_digits().data[:256], dtype=torch.float64) / 16
    model = _SimCLR().double()
    criterion = lightly.NTXentLoss(temperature=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    losses = []
    for _ in range(2):
        for x in digits.split(64):
            x0, x1 = (x + 0.1 * torch.randn_like(x) for _ in range(2))
            loss = criterion(model(x0), model(x1))
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_training_goes_the_same_way() -> None:
    assert_training_goes_the_same_way(patch_lightly, _train)
