"""NT-Xent with a memory bank against lightly's, and against a plain ring buffer."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import autocast
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sslkern
from sslkern.accuracy import assert_accurate
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.losses import NTXentLoss

pytestmark = pytest.mark.usefixtures("backend")

OPERATOR = "info_nce"
DIM = 5
LossFn = Callable[[Tensor, Tensor], Tensor]


def views(batch: int, step: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two correlated views; the rows of neither have unit norm."""
    g = torch.Generator().manual_seed(step)
    shared, noise_a, noise_b = torch.randn(3, batch, DIM, generator=g, dtype=torch.float64)
    return (3 * (shared + noise_a)).to(dtype), (shared + noise_b).to(dtype)


def rows_of(loss: NTXentLoss) -> Tensor:
    assert loss.queue is not None
    return loss.queue.rows


def with_bank(size: int | tuple[int, int] = (6, DIM)) -> NTXentLoss:
    return NTXentLoss(temperature=0.2, memory_bank_size=size).double()


def train(loss_fn: NTXentLoss, steps: int, batch: int = 4) -> None:
    for step in range(steps):
        z_a, z_b = views(batch, step)
        loss_fn(z_a.requires_grad_(), z_b)


def evaluate(loss_fn: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The loss and the gradients."""
    leaves = [z.clone().requires_grad_() for z in inputs]
    loss = loss_fn(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


# ---- against lightly

USES: dict[str, Callable[[LossFn, Tensor, Tensor], Tensor]] = {
    "both views": lambda loss, a, b: loss(a, b),
    "both views, both directions": lambda loss, a, b: loss(a, b) + loss(b, a),
    "momentum encoder": lambda loss, a, b: loss(a, b.detach()) + loss(b, a.detach()),
    "second view alone": lambda loss, a, b: loss(a.detach(), b) + 0 * a.sum(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("batch", "size"), [(4, 8), (4, 4), (1, 3), (6, 24)])
def test_equals_lightly_over_several_steps(batch: int, size: int, use: str) -> None:
    """In every use the bank is overwritten between the loss and its gradient, but in the last."""
    try:
        module: Any = peers.import_peer("lightly", "lightly.loss.ntx_ent_loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    theirs = module.NTXentLoss(temperature=0.2, memory_bank_size=(size, DIM)).double()
    ours = with_bank((size, DIM))
    rows_of(ours).copy_(theirs.memory_bank.bank)
    start = rows_of(ours).clone()
    for step in range(5):
        inputs = views(batch, step)
        both = [evaluate(lambda a, b, f=f: USES[use](f, a, b), *inputs) for f in (ours, theirs)]
        for got, expected in zip(*both, strict=True):
            assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
        torch.testing.assert_close(rows_of(ours), theirs.memory_bank.bank, rtol=1e-12, atol=1e-15)
    assert torch.equal(rows_of(ours), start) == (use == "second view alone")


# ---- against a plain ring buffer


@pytest.mark.parametrize("size", [1, 3, 7, 10])
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_equals_the_reference_on_a_ring_buffer(batch: int, size: int) -> None:
    ours = with_bank((size, DIM))
    ring, place = list(rows_of(ours).clone()), 0
    for step in range(6):
        inputs = views(batch, step)

        def reference(z_a: Tensor, z_b: Tensor, bank: Tensor) -> Tensor:
            return sslkern.reference.info_nce_loss(z_a, z_b, bank, temperature=0.2)

        bank = torch.stack(ring)
        expected = evaluate(lambda a, b, bank=bank: reference(a, b, bank), *inputs)
        torch.testing.assert_close(evaluate(ours, *inputs), expected, rtol=1e-11, atol=1e-13)
        for row in inputs[1]:
            ring[place % size] = row / row.norm()
            place += 1
        torch.testing.assert_close(rows_of(ours), torch.stack(ring))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [300, (300, DIM)])
def test_every_dtype_matches_the_reference(size: int | tuple[int, int], dtype: torch.dtype) -> None:
    loss_fn = NTXentLoss(temperature=0.1, memory_bank_size=size)
    loss_fn(*views(8, 1, dtype))
    bank = rows_of(loss_fn).to(dtype, copy=True)
    inputs = views(40, 2, dtype)

    def reference(working: torch.dtype) -> tuple[Tensor, ...]:
        rounded = [z.to(working) for z in (*inputs, bank)]
        return evaluate(
            lambda a, b: sslkern.reference.info_nce_loss(a, b, rounded[2], temperature=0.1),
            *rounded[:2],
        )

    results = evaluate(loss_fn, *inputs), reference(dtype), reference(torch.float64)
    for name, *three in zip(("loss", "grad_z_a", "grad_z_b"), *results, strict=True):
        assert_accurate(*three, f"{name}, {dtype}")


# ---- when the bank changes


def test_evaluation_leaves_the_bank_alone() -> None:
    loss_fn = with_bank()
    before = rows_of(loss_fn).clone()
    z_a, z_b = views(4)
    loss_fn(z_a, z_b)
    loss_fn(z_a, z_b.requires_grad_())
    with torch.no_grad():
        loss_fn(z_a.requires_grad_(), z_b)
    assert torch.equal(rows_of(loss_fn), before)
    loss_fn(z_a, z_b)
    assert not torch.equal(rows_of(loss_fn), before)


def test_a_batch_is_not_its_own_negative() -> None:
    loss_fn = with_bank((4, DIM))
    z = torch.eye(DIM, dtype=torch.float64)[[0] * 4]
    rows_of(loss_fn).copy_(-z)
    opposite = math.log1p(4 * math.exp(-2 / 0.2))
    assert loss_fn(z.clone().requires_grad_(), z).item() == pytest.approx(opposite, rel=1e-9)
    assert loss_fn(z.clone().requires_grad_(), z).item() == pytest.approx(math.log(5), rel=1e-9)


def test_kept_rows_have_unit_norm_and_no_gradient() -> None:
    loss_fn = NTXentLoss(memory_bank_size=4).half()
    z_a, z_b = (z.half().requires_grad_() for z in views(4))
    loss_fn(z_a, z_b * 1000)
    assert not rows_of(loss_fn).requires_grad
    torch.testing.assert_close(
        rows_of(loss_fn).float().norm(dim=1), torch.ones(4), atol=1e-3, rtol=0
    )


# ---- state


def test_bank_without_length_comes_with_the_first_call() -> None:
    loss_fn = NTXentLoss(memory_bank_size=9)
    assert loss_fn.queue is None
    assert not loss_fn.state_dict()
    loss_fn(*views(4))
    assert rows_of(loss_fn).shape == (9, DIM)
    assert rows_of(loss_fn).dtype == torch.float64
    assert list(loss_fn.state_dict()) == ["queue.rows", "queue.position"]


def test_call_that_raises_makes_no_bank() -> None:
    loss_fn = NTXentLoss(memory_bank_size=9)
    with pytest.raises(TypeError, match="dtype of query"):
        loss_fn(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64))
    assert loss_fn.queue is None
    assert loss_fn(*views(2)).isfinite()


def test_first_call_may_be_in_inference_mode() -> None:
    loss_fn = NTXentLoss(memory_bank_size=9)
    with torch.inference_mode():
        loss_fn(*views(4))
    before = rows_of(loss_fn).clone()
    z_a, z_b = views(4)
    loss_fn(z_a.requires_grad_(), z_b).backward()
    assert not torch.equal(rows_of(loss_fn), before)


@pytest.mark.parametrize("size", [10, (10, DIM)])
@pytest.mark.parametrize("nested", [False, True])
def test_state_loads_into_a_fresh_module(nested: bool, size: int | tuple[int, int]) -> None:
    trained = with_bank(size)
    train(trained, 4)
    file = io.BytesIO()
    torch.save((torch.nn.ModuleDict({"loss": trained}) if nested else trained).state_dict(), file)
    file.seek(0)
    fresh = with_bank(size)
    whole = torch.nn.ModuleDict({"loss": fresh}) if nested else fresh
    whole.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(rows_of(fresh), rows_of(trained))
    for loss_fn in (trained, fresh):
        train(loss_fn, 1)
    assert torch.equal(rows_of(fresh), rows_of(trained))


def test_state_of_another_size_is_refused() -> None:
    trained = with_bank((10, DIM))
    for size in (9, (9, DIM), (10, DIM + 1)):
        with pytest.raises(RuntimeError, match=r"size mismatch for queue\.rows"):
            with_bank(size).load_state_dict(trained.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"queue\.rows\""):
        NTXentLoss().load_state_dict(trained.state_dict())


def test_copies_have_banks_of_their_own() -> None:
    fresh = NTXentLoss(memory_bank_size=9)
    loss_fn = copy.deepcopy(fresh)
    trained = with_bank((9, DIM))
    loss_fn.load_state_dict(trained.state_dict())
    assert fresh.queue is None
    another = copy.deepcopy(loss_fn)
    train(another, 1)
    assert torch.equal(rows_of(loss_fn), rows_of(trained))
    assert not torch.equal(rows_of(another), rows_of(trained))


def test_bank_follows_the_module_to_another_dtype() -> None:
    loss_fn = NTXentLoss(memory_bank_size=(8, DIM))
    loss_fn.to(torch.bfloat16)
    assert rows_of(loss_fn).dtype == torch.bfloat16
    assert loss_fn(*views(4, dtype=torch.bfloat16)).isfinite()
    assert loss_fn.to("meta").queue.rows.is_meta


# ---- memory


class Largest(TorchDispatchMode):
    """Elements of the largest result of any operator."""

    elements = 0

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        found = result if isinstance(result, (tuple, list)) else [result]
        sizes = [z.numel() for z in found if isinstance(z, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_no_operator_gives_a_matrix_of_all_similarities() -> None:
    batch, size = 64, 2000
    loss_fn = with_bank((size, DIM))
    z_a, z_b = views(batch)
    with Largest() as largest:
        loss_fn(z_a.requires_grad_(), z_b).backward()
    assert batch * DIM <= largest.elements <= size * DIM


# ---- errors

EXPECTED = r"sslkern::ntxent: expected memory_bank_size to be K or \(K, D\), integers"


@pytest.mark.parametrize("size", [-1, (-1, 4), (4, 0), (4, -2), (4,), (4, 2, 1), ()])
def test_bad_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=EXPECTED):
        NTXentLoss(memory_bank_size=size)


@pytest.mark.parametrize("size", [4.0, True, (4, 2.0), (True, 2), "42", None, {4, 2}])
def test_size_of_another_type_is_refused(size: Any) -> None:
    with pytest.raises(TypeError, match=EXPECTED):
        NTXentLoss(memory_bank_size=size)


@pytest.mark.parametrize("size", [0, (0, 7)])
def test_size_of_zero_is_no_bank(size: int | tuple[int, int]) -> None:
    loss_fn = NTXentLoss(memory_bank_size=size)
    inputs = views(4)
    assert torch.equal(loss_fn(*inputs), sslkern.ntxent_loss(*inputs))
    assert loss_fn.queue is None
    assert repr(loss_fn) == "NTXentLoss(temperature=0.5)"


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (([1.0], torch.ones(2, 3)), TypeError, "z_a to be a tensor, got list"),
        ((torch.ones(2, 3), None), TypeError, "z_b to be a tensor, got NoneType"),
        ((torch.ones(3), torch.ones(3)), ValueError, r"z_a to be of shape \(B, D\)"),
        ((torch.ones(0, 3), torch.ones(0, 3)), ValueError, "z_a .* no empty dimension"),
        ((torch.ones(2, 0), torch.ones(2, 0)), ValueError, "z_a .* no empty dimension"),
        ((torch.ones(2, 3), torch.ones(1, 3)), ValueError, r"z_b .* shape of z_a, \(2, 3\)"),
        ((torch.ones(2, 3), torch.ones(2, 3).long()), TypeError, r"z_b .* got torch\.int64"),
    ],
)
@pytest.mark.parametrize("size", [5, (5, 3)])
def test_bad_views_are_refused(
    size: int | tuple[int, int], inputs: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^sslkern::ntxent: expected {message}"):
        NTXentLoss(memory_bank_size=size)(*inputs)


def test_views_of_another_length_than_the_bank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"negatives to be of shape \(K, 5\) .* \(8, 4\)"):
        with_bank((8, 4))(*views(4))


# ---- torch integration


def test_repr_names_the_bank() -> None:
    assert repr(NTXentLoss(memory_bank_size=4096)) == (
        "NTXentLoss(temperature=0.5, memory_bank_size=4096)"
    )


@pytest.mark.not_emulated
def test_compiles_without_graph_break() -> None:
    plain = with_bank()
    compiled_from = copy.deepcopy(plain)
    compiled = torch.compile(compiled_from, backend="aot_eager", fullgraph=True)
    for step in range(4):
        inputs = views(4, step)
        torch.testing.assert_close(evaluate(compiled, *inputs), evaluate(plain, *inputs))
        torch.testing.assert_close(rows_of(compiled_from), rows_of(plain))


def test_autocast_trains_through_a_layer() -> None:
    layer, loss_fn = torch.nn.Linear(DIM, 4), NTXentLoss(memory_bank_size=(8, 4))
    for step in range(2):
        z_a, z_b = views(4, step, torch.float32)
        with autocast():
            loss = loss_fn(layer(z_a), layer(z_b).detach())
        loss.backward()
    assert loss.dtype == torch.float32
    assert rows_of(loss_fn).dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
