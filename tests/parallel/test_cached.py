"""Steps in micro-batches against the whole batch: values, gradients, memory, buffers, errors."""

from __future__ import annotations

import functools
import re
import weakref
from collections import UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import sslkern
from sslkern.parallel import cached_step
from sslkern.parallel.nested import narrow_rows

BOUND = 1e-10
Pair = namedtuple("Pair", ["ids", "rest"])


def close(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=BOUND, atol=BOUND)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*between: nn.Module, seed: int = 1) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 6), nn.Tanh(), *between, nn.Linear(6, 4)]
        return nn.Sequential(*layers).double()


class Texts(nn.Module):
    """Takes ids and a mask, both within dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.words = nn.Embedding(9, 4, dtype=torch.float64)

    def forward(self, tokens: dict[str, Any]) -> Tensor:
        assert tokens["language"] == "en"
        mask = tokens["more"][0]["mask"].unsqueeze(2)
        return (self.words(tokens["ids"]) * mask).sum(1)


def tokens(rows: int) -> dict[str, Any]:
    ids = draw(rows, 3).abs().mul(3).long().clamp(max=8)
    return {"ids": ids, "more": [{"mask": draw(rows, 3, seed=4)}], "language": "en"}


def gradients(*owners: nn.Module | Tensor) -> list[Tensor]:
    """Of all parameters, which have none afterwards."""
    parameters = [p for m in owners for p in (m.parameters() if isinstance(m, nn.Module) else [m])]
    found = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    assert all(grad is not None for grad in found)
    return found


def in_parts(encoder: Callable[[Tensor], Tensor], x: Tensor, parts: int) -> Tensor:
    return torch.cat([encoder(rows) for rows in x.tensor_split(parts)])


def ntxent(a: Tensor, b: Tensor) -> Tensor:
    return sslkern.ntxent_loss(a, b, 0.3)


# ---- values and gradients


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_two_views_of_one_encoder(size: int) -> None:
    encoder, a, b = network(), draw(7, 5), draw(7, 5, seed=3)
    expected = ntxent(encoder(a), encoder(b))
    expected.backward()
    grads = gradients(encoder)
    loss = cached_step(encoder, (a, b), ntxent, size)
    assert not loss.requires_grad
    close(loss, expected.detach())
    for found, grad in zip(gradients(encoder), grads, strict=True):
        close(found, grad)


@pytest.mark.parametrize("size", [1, 2, 5, [4, 3], (7, 1)])
def test_two_encoders_dictionaries_and_a_learnt_scale(size: Any) -> None:
    images, texts, x, t = network(), Texts(), draw(7, 5), tokens(7)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.clip_loss(a, b, scale.exp())

    expected = loss(images(x), texts(t))
    expected.backward()
    grads = gradients(images, texts, scale)
    close(cached_step([images, texts], [x, t], loss, size), expected.detach())
    for found, grad in zip(gradients(images, texts, scale), grads, strict=True):
        close(found, grad)


def test_inputs_may_differ_in_rows() -> None:
    """Two passages for each query."""
    encoder, queries, passages = network(), draw(4, 5), draw(8, 5, seed=3)

    def loss(q: Tensor, p: Tensor) -> Tensor:
        return sslkern.info_nce_loss(q, p[::2], p[1::2], in_batch=True)

    expected = loss(encoder(queries), encoder(passages))
    expected.backward()
    grads = gradients(encoder)
    close(cached_step(encoder, (queries, passages), loss, (3, 5)), expected.detach())
    for found, grad in zip(gradients(encoder), grads, strict=True):
        close(found, grad)


def test_gradients_are_added() -> None:
    encoder, views = network(), (draw(6, 5), draw(6, 5, seed=3))
    cached_step(encoder, views, ntxent, 2)
    once = [p.grad.clone() for p in encoder.parameters()]
    cached_step(encoder, views, ntxent, 2)
    for found, grad in zip(gradients(encoder), once, strict=True):
        close(found, 2 * grad)


@pytest.mark.parametrize(
    "make", [lambda a, b: (a, [b]), Pair, lambda a, b: UserDict(a=a, b=[None, b])]
)
def test_nested_inputs_arrive_as_they_are(make: Any) -> None:
    a, b = draw(5, 2), torch.arange(5)
    seen = []

    def encoder(value: Any) -> Tensor:
        seen.append(value)
        return value["a"] if isinstance(value, dict) else value[0]

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    cached_step(encoder, [make(a, b)], lambda z: (scale * z).sum(), 3)
    assert torch.equal(scale.grad, a.sum())
    for value, rows in zip(seen[:2], (slice(0, 3), slice(3, 5)), strict=True):
        expected = make(a[rows], b[rows])
        assert type(value) is (dict if isinstance(expected, UserDict) else type(expected))
        assert repr(value) == repr(dict(expected) if isinstance(expected, UserDict) else expected)


# ---- random numbers, buffers, modes


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_both_passes_draw_the_same(size: int) -> None:
    """And leave the generator where one pass does, also where the loss draws."""
    encoder, a, b = network(nn.Dropout(0.4)), draw(7, 5), draw(7, 5, seed=3)
    parts = -(-7 // size)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return ntxent(a, b + torch.rand(7, 4, dtype=torch.float64))

    torch.manual_seed(5)
    expected = loss(in_parts(encoder, a, parts), in_parts(encoder, b, parts))
    expected.backward()
    following, grads = torch.rand(3), gradients(encoder)
    torch.manual_seed(5)
    close(cached_step(encoder, (a, b), loss, size), expected.detach())
    assert torch.equal(torch.rand(3), following)
    for found, grad in zip(gradients(encoder), grads, strict=True):
        close(found, grad)


class Moving(nn.Module):
    """Buffers that change what follows, one in place, one anew, and a record of what they were."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.seen: list[tuple[float, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.total.item(), self.calls.item()))
        y = x * (1 + self.total.clone() + self.calls)
        if self.training:
            self.total += x.detach().sum()
            self.calls = self.calls + 0.5
        return y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [2, 4, 7])
def test_buffers_move_once(size: int, training: bool) -> None:
    def make() -> nn.Sequential:
        encoder = network(nn.BatchNorm1d(6), Moving())
        return encoder.train(training)

    a, b, parts = draw(8, 5), draw(8, 5, seed=3), -(-8 // size)
    plain, encoder = make(), make()
    expected = ntxent(in_parts(plain, a, parts), in_parts(plain, b, parts))
    expected.backward()
    close(cached_step(encoder, (a, b), ntxent, size), expected.detach())
    for found, grad in zip(gradients(encoder), gradients(plain), strict=True):
        close(found, grad)
    for (name, found), value in zip(encoder.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, value), name
    assert encoder[2].num_batches_tracked == (2 * parts if training else 0)
    seen = encoder[3].seen
    assert seen[: 2 * parts] == seen[2 * parts :] == plain[3].seen


def test_frozen_encoders_run_once() -> None:
    def make() -> tuple[nn.Sequential, nn.Sequential]:
        teacher = network(nn.BatchNorm1d(6), Moving(), seed=4)
        return network(), teacher.requires_grad_(False)

    student, teacher = make()
    a, b = draw(6, 5), draw(6, 5, seed=3)
    needs = []

    def loss(z: Tensor, target: Tensor) -> Tensor:
        needs.extend([z.requires_grad, target.requires_grad])
        return (z - target).square().mean()

    cached_step([student, teacher], (a, b), loss, 3)
    assert needs == [True, False]
    assert len(teacher[3].seen) == 2
    plain, again = make()
    loss(plain(a), in_parts(again, b, 2)).backward()
    for found, grad in zip(gradients(student), gradients(plain), strict=True):
        close(found, grad)
    for found, value in zip(teacher.buffers(), again.buffers(), strict=True):
        assert torch.equal(found, value)


def test_what_the_loss_detaches_is_encoded_once() -> None:
    """By an encoder that the other view needs: its buffers move for both."""
    a, b = draw(6, 5), draw(6, 5, seed=3)

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return (z - target.detach()).square().mean()

    def make() -> nn.Sequential:
        return network(nn.BatchNorm1d(6), Moving())

    encoder, plain = make(), make()
    cached_step(encoder, (a, b), loss, 3)
    loss(in_parts(plain, a, 2), in_parts(plain, b, 2)).backward()
    assert len(encoder[3].seen) == 2 + 2 + 2
    for found, grad in zip(gradients(encoder), gradients(plain), strict=True):
        close(found, grad)
    for found, value in zip(encoder.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, value)


@pytest.mark.parametrize("encoder", ["method", "partial"])
def test_modules_behind_functions_are_found(encoder: str) -> None:
    module = network(nn.BatchNorm1d(6))
    call = module.forward if encoder == "method" else functools.partial(module)
    cached_step(call, (draw(6, 5), draw(6, 5, seed=3)), ntxent, 3)
    assert module[2].num_batches_tracked == 4


# ---- memory


class Watched(nn.Module):
    """Remembers the rows of each call, and how many of its graphs were alive."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, int]] = []
        self.alive: list[Any] = []
        self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((torch.is_grad_enabled(), len(x)))
        y = x.exp()  # keeps its result for the backward pass
        if torch.is_grad_enabled():
            self.alive = [r for r in self.alive if r() is not None] + [weakref.ref(y)]
            self.most = max(self.most, len(self.alive))
        return y


def test_the_graph_of_one_micro_batch_is_in_memory() -> None:
    encoder = network(Watched())
    cached_step(encoder, (draw(10, 5), draw(10, 5, seed=3)), ntxent, 4)
    assert encoder[2].calls == [(grad, n) for grad in (False, True) for n in (4, 3, 3) * 2]
    assert encoder[2].most == 1


def test_saved_tensors_are_those_of_one_micro_batch() -> None:
    """Bytes that autograd holds at once, of encoders, grow with the micro-batch, not the batch."""

    def most(rows: int, size: int) -> int:
        held = peak = 0

        class Saved:
            def __init__(self, x: Tensor) -> None:
                nonlocal held, peak
                self.x, self.size = x, x.shape[0] * x.element_size() if x.dim() > 1 else 0
                held += self.size
                peak = max(peak, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.size

        encoder = network(*[nn.Tanh() for _ in range(10)])
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.x):
            cached_step(encoder, [draw(rows, 5)], lambda z: z.sum(), size)
        return peak

    assert most(64, 4) == most(16, 4) < most(64, 8) < most(64, 64)


# ---- dtypes


@pytest.mark.parametrize("cache", [True, False])
def test_autocast_applies_to_both_passes(cache: bool) -> None:
    encoder, a, b = network(nn.Dropout(0.4)).float(), draw(6, 5).float(), draw(6, 5, seed=3).float()
    dtypes = []

    def loss(a: Tensor, b: Tensor) -> Tensor:
        dtypes.extend([a.dtype, b.dtype])
        return ntxent(a, b)

    torch.manual_seed(5)
    # Cached casts would add up gradients of micro-batches in bfloat16.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = loss(in_parts(encoder, a, 3), in_parts(encoder, b, 3))
    expected.backward()
    grads = gradients(encoder)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
        value = cached_step(encoder, (a, b), loss, 2)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(value, expected)
    assert set(dtypes) == {torch.bfloat16}
    for found, grad in zip(gradients(encoder), grads, strict=True):
        torch.testing.assert_close(found, grad)


def test_backward_passes_are_not_under_autocast() -> None:
    """What is excepted from it in the forward pass is in the backward pass, too."""
    encoder, a, b = network().float(), draw(6, 5).float(), draw(6, 5, seed=3).float()
    scale = torch.full((4, 4), 0.3, requires_grad=True)

    def wide(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return encoder(x)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return ntxent(a @ scale, b)

    loss(wide(a), wide(b)).backward()
    grads = gradients(encoder, scale)
    with torch.autocast("cpu", torch.bfloat16):
        cached_step(wide, (a, b), loss, 2)
    for found, grad in zip(gradients(encoder, scale), grads, strict=True):
        torch.testing.assert_close(found, grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_embeddings_get_half_gradients(dtype: torch.dtype) -> None:
    encoder, a, b = network(), draw(6, 5), draw(6, 5, seed=3)

    def half(x: Tensor) -> Tensor:
        return encoder(x).to(dtype)

    expected = ntxent(half(a), half(b))
    expected.backward()
    grads = gradients(encoder)
    assert torch.equal(cached_step(half, (a, b), ntxent, 2), expected)
    for found, grad in zip(gradients(encoder), grads, strict=True):
        close(found, grad)


def test_a_scaler_scales_gradients_alone() -> None:
    encoder, views = network(), (draw(6, 5), draw(6, 5, seed=3))
    expected = cached_step(encoder, views, ntxent, 2)
    grads = gradients(encoder)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert torch.equal(cached_step(encoder, views, ntxent, 2, scaler=scaler), expected)
    optimizer = torch.optim.SGD(encoder.parameters(), 1.0)
    for p, grad in zip(encoder.parameters(), grads, strict=True):
        close(p.grad, 1024 * grad)
    before = [p.detach().clone() for p in encoder.parameters()]
    scaler.step(optimizer)
    for p, value, grad in zip(encoder.parameters(), before, grads, strict=True):
        close(p.detach(), value - grad)


# ---- errors

X = torch.zeros(4, 5, dtype=torch.float64)
RIGHT: dict[str, Any] = {"encoders": network(), "inputs": (X, X), "loss": ntxent}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"encoders": 3}, TypeError, "encoders to be callable, or a list or tuple .*, got int"),
        ({"encoders": [len, 3]}, TypeError, "encoders to be callable, .*, got int"),
        ({"encoders": [len]}, ValueError, "encoders to be one, or one for each of 2 inputs, got 1"),
        ({"inputs": X}, TypeError, "inputs to be a list or tuple with an input .*, got Tensor"),
        ({"inputs": []}, ValueError, "inputs to be one or more, got none"),
        ({"inputs": [X, {"a": 1}]}, TypeError, r"inputs\[1\] to be a tensor, or .*, got dict"),
        (
            {"inputs": [{"a": X, "b": X[:3]}, X]},
            ValueError,
            r"inputs\[0\] to be of tensors with the same number of rows, "
            r"got shapes \[\(4, 5\), \(3, 5\)\]",
        ),
        (
            {"inputs": [X, X.sum()]},
            ValueError,
            r"inputs\[1\] to be .* rows, got shapes \[\(\)\]",
        ),
        (
            {"inputs": [X, X.clone().requires_grad_()]},
            ValueError,
            r"inputs\[1\] to be of tensors that require no gradient",
        ),
        ({"loss": None}, TypeError, "loss to be callable, got NoneType"),
        ({"micro_batch_size": 0}, ValueError, "micro_batch_size to be positive, got 0"),
        ({"micro_batch_size": 2.0}, TypeError, "micro_batch_size to be an integer, .*, got float"),
        ({"micro_batch_size": True}, TypeError, "micro_batch_size to be an integer, .*, got bool"),
        ({"micro_batch_size": [2]}, ValueError, "micro_batch_size to be one, or one for each of 2"),
        ({"micro_batch_size": [2, -1]}, ValueError, "micro_batch_size to be positive, got -1"),
        ({"scaler": 2.0}, TypeError, "scaler to be a torch.amp.GradScaler or None, got float"),
        ({"sync_gradients": 1}, TypeError, "sync_gradients to be a bool, got int"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    arguments = RIGHT | {"encoders": never, "loss": never, "micro_batch_size": 2} | wrong
    with pytest.raises(error, match=f"sslkern::cached_step: expected {message}"):
        cached_step(**arguments)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"encoders": lambda x: (x,)}, TypeError, "an encoder to return a tensor, got tuple"),
        (
            {"encoders": lambda x: x[1:]},
            ValueError,
            r"an encoder to return 2 rows, as its input has, got shape \(1, 5\)",
        ),
        ({"loss": lambda a, b: 1.0}, TypeError, "loss to return a tensor, got float"),
        (
            {"loss": lambda a, b: a},
            ValueError,
            r"loss to return one .*, got shape \(4, 4\)",
        ),
        (
            {"loss": lambda a, b: a.sum().detach()},
            ValueError,
            "loss to .* that requires grad",
        ),
    ],
)
def test_wrong_results_are_refused(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"sslkern::cached_step: expected {message}"):
        cached_step(**(RIGHT | {"micro_batch_size": 2} | wrong))


def test_gradients_must_be_enabled() -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="expected gradients to be enabled"):
        cached_step(**RIGHT, micro_batch_size=2)


@pytest.mark.parametrize("call", [0, 3, 4, 6])
def test_errors_of_encoders_are_their_own(call: int) -> None:
    """In the first pass, calls 0 to 3, and in the second: nothing has been drawn, nothing moved."""
    encoder = network(nn.Dropout(0.4), nn.BatchNorm1d(6), Moving())
    error = KeyError("mine")
    calls = []

    def raising(module: nn.Module, *_: Any) -> None:
        calls.append(module)
        if len(calls) == call + 1:
            raise error

    encoder[4].register_forward_pre_hook(raising)
    before, buffers = torch.get_rng_state(), [x.clone() for x in encoder.buffers()]
    with pytest.raises(KeyError) as caught:
        cached_step(encoder, (X + 1, X + 2), ntxent, 2)
    assert caught.value is error
    assert torch.equal(torch.get_rng_state(), before)
    for found, value in zip(encoder.buffers(), buffers, strict=True):
        assert torch.equal(found, value)


def test_errors_of_the_loss_are_its_own() -> None:
    encoder, error = network(nn.Dropout(0.4)), KeyError("mine")

    def raising(*_: Tensor) -> Tensor:
        raise error

    before = torch.get_rng_state()
    with pytest.raises(KeyError) as caught:
        cached_step(encoder, (X, X), raising, 2)
    assert caught.value is error
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in encoder.parameters())


# ---- several processes

SPLITS = ([7], [3, 3], [5, 1], [0, 6], [2, 2, 2], [5, 0, 3], [4, 0, 0, 3])
STEPS = 3


class Clip(nn.Module):
    """The loss with its scale."""

    def __init__(self, **sharing: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
        self._sharing = sharing

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return sslkern.clip_loss(a, b, self.scale.exp(), **self._sharing)


def wrap(module: nn.Module, how: str, group: dist.ProcessGroup, **options: Any) -> nn.Module:
    if how == "DistributedDataParallel":
        return DistributedDataParallel(module, process_group=group, **options)
    if how == "fully_shard":
        mesh = DeviceMesh.from_group(group, "cpu")
        for layer in module.children():
            if list(layer.parameters()):
                fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
    return module


def own_rows(group: dist.ProcessGroup, split: list[int], x: Any) -> Any:
    rank = dist.get_rank(group)
    return narrow_rows(x, sum(split[:rank]), split[rank])


def values_of(*modules: nn.Module) -> list[Tensor]:
    found = [p.detach() for m in modules for p in m.parameters()]
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in found]


def steps_of_rank(
    group: dist.ProcessGroup, split: list[int], how: str, strategy: str, sizes: Any
) -> tuple[list[Tensor], list[Tensor]]:
    sharing = {"gather_distributed": True, "process_group": group, "strategy": strategy}
    modules = [network(), Texts(), Clip(**sharing)]
    if how != "nothing":
        modules[:2] = [wrap(m, how, group) for m in modules[:2]]
        modules[2] = wrap(modules[2], "DistributedDataParallel", group)
    x, t = (own_rows(group, split, value) for value in (draw(sum(split), 5), tokens(sum(split))))

    def step() -> Tensor:
        loss = cached_step(modules[:2], (x, t), modules[2], sizes)
        for p in (p for m in modules for p in m.parameters() if how == "nothing"):
            dist.all_reduce(p.grad, group=group)
            p.grad /= len(split)
        return loss

    return optimized(step, modules)


def optimized(
    step: Callable[[], Tensor], modules: list[nn.Module]
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and parameters."""
    optimizer = torch.optim.SGD([p for m in modules for p in m.parameters()], 0.05)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(step().detach())
        optimizer.step()
    return losses, values_of(*modules)


@functools.cache
def steps_of_one(rows: int) -> tuple[list[Tensor], list[Tensor]]:
    modules = [network(), Texts(), Clip()]
    x, t = draw(rows, 5), tokens(rows)

    def step() -> Tensor:
        loss = modules[2](modules[0](x), modules[1](t))
        loss.backward()
        return loss

    return optimized(step, modules)


def assert_like_one(found: list[Any], rows: int) -> None:
    for of_rank in found:
        for some, expected in zip(of_rank, steps_of_one(rows), strict=True):
            for x, y in zip(some, expected, strict=True):
                close(x, y)


@pytest.mark.parametrize("strategy", ["gather", "ring"])
@pytest.mark.parametrize("how", ["nothing", "DistributedDataParallel", "fully_shard"])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_steps_of_ranks_are_those_of_one_process(
    ranks: Ranks, split: list[int], how: str, strategy: str
) -> None:
    found = ranks.run(len(split), steps_of_rank, split, how, strategy, 2)
    assert_like_one(found, sum(split))


@pytest.mark.parametrize("how", ["DistributedDataParallel", "fully_shard"])
def test_sizes_of_micro_batches_may_differ_between_inputs(ranks: Ranks, how: str) -> None:
    assert_like_one(ranks.run(2, steps_of_rank, [5, 2], how, "gather", (1, 3)), 7)


class Towers(nn.Module):
    """Both encoders and the scale within one module, of which a pass uses a part."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.texts, self.clip = network(), Texts(), Clip()

    def forward(self, value: Any) -> Tensor:
        return self.texts(value) if isinstance(value, dict) else self.images(value)


def steps_of_towers(group: dist.ProcessGroup, split: list[int], how: str) -> Any:
    sharing = {"gather_distributed": True, "process_group": group}
    x, t = (own_rows(group, split, value) for value in (draw(sum(split), 5), tokens(sum(split))))
    towers = Towers()
    if how == "fully_shard":
        del towers.clip  # it is gathered within the towers' forward passes alone
        towers = wrap(towers, how, group)
        clip = wrap(Clip(**sharing), "DistributedDataParallel", group)
        return optimized(lambda: cached_step(towers, (x, t), clip, 2), [towers, clip])

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.clip_loss(a, b, towers.clip.scale.exp(), **sharing)

    model = wrap(towers, how, group, find_unused_parameters=True)
    return optimized(lambda: cached_step(model, (x, t), loss, 2), [towers])


@pytest.mark.parametrize("how", ["DistributedDataParallel", "fully_shard"])
@pytest.mark.parametrize("split", [[3, 3], [5, 1], [5, 0, 3]], ids=str)
def test_one_wrapper_may_hold_all_encoders(ranks: Ranks, split: list[int], how: str) -> None:
    assert_like_one(ranks.run(len(split), steps_of_towers, split, how), sum(split))


def steps_on_mesh(group: dist.ProcessGroup, split: list[int]) -> Any:
    """Shards on two ranks, copies of them on two others."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    towers = [fully_shard(module, mesh=mesh) for module in (network(), Texts())]
    x, t = (own_rows(group, split, value) for value in (draw(sum(split), 5), tokens(sum(split))))
    clip = Clip(gather_distributed=True, process_group=group)
    clip = wrap(clip, "DistributedDataParallel", group)
    return optimized(lambda: cached_step(towers, (x, t), clip, 2), [*towers, clip])


def test_meshes_may_have_two_dimensions(ranks: Ranks) -> None:
    assert_like_one(ranks.run(4, steps_on_mesh, [5, 1, 0, 3]), 9)


def reductions(group: dist.ProcessGroup, split: list[int], sync: list[bool]) -> Any:
    """How many times gradients have been averaged in each step, and what they are."""
    plain = network()
    encoder = wrap(plain, "DistributedDataParallel", group)
    counts = []

    def counted(bucket: Any) -> Any:
        counts[-1] += 1
        return allreduce_hook(group, bucket)

    encoder.register_comm_hook(None, lambda _, bucket: counted(bucket))
    views = [own_rows(group, split, draw(sum(split), 5, seed=i)) for i in (0, 3)]

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.ntxent_loss(a, b, 0.3, gather_distributed=True, process_group=group)

    for sync_gradients in sync:
        counts.append(0)
        cached_step(encoder, views, loss, 2, sync_gradients=sync_gradients)
    return counts, gradients(plain)


@pytest.mark.parametrize("sync", [[True], [False, True], [False, False, True]], ids=str)
def test_gradients_are_averaged_once(ranks: Ranks, sync: list[bool]) -> None:
    split = [5, 1, 2]
    encoder, steps = network(), len(sync)
    (steps * ntxent(encoder(draw(8, 5)), encoder(draw(8, 5, seed=3)))).backward()
    expected = gradients(encoder)
    for counts, grads in ranks.run(3, reductions, split, sync):
        assert counts == [int(s) for s in sync]
        for found, grad in zip(grads, expected, strict=True):
            close(found, grad)


def gradients_of_shards(group: dist.ProcessGroup, split: list[int], sync: list[bool]) -> Any:
    encoder = wrap(network(), "fully_shard", group)
    views = [own_rows(group, split, draw(sum(split), 5, seed=i)) for i in (0, 3)]

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sslkern.ntxent_loss(a, b, 0.3, gather_distributed=True, process_group=group)

    there = []
    for sync_gradients in sync:
        cached_step(encoder, views, loss, 2, sync_gradients=sync_gradients)
        there.append(all(p.grad is not None for p in encoder.parameters()))
    return there, [grad.full_tensor() for grad in gradients(encoder)]


def test_shards_get_their_gradients_at_last(ranks: Ranks) -> None:
    encoder = network()
    (2 * ntxent(encoder(draw(8, 5)), encoder(draw(8, 5, seed=3)))).backward()
    expected = gradients(encoder)
    for there, grads in ranks.run(3, gradients_of_shards, [5, 1, 2], [False, True]):
        assert there == [False, True]
        for found, grad in zip(grads, expected, strict=True):
            close(found, grad)


def buffers_seen(group: dist.ProcessGroup, split: list[int]) -> Any:
    """Of steps with buffers that the first rank's replace."""
    plain = network(nn.BatchNorm1d(6), Moving())
    encoder = wrap(plain, "DistributedDataParallel", group)
    views = [own_rows(group, split, draw(sum(split), 5, seed=i)) for i in (0, 3)]
    for _ in range(STEPS):
        cached_step(encoder, views, lambda a, b: (a - b).square().mean() + 0 * a.sum(), 2)
    return plain[3].seen, [x.isfinite().all().item() for x in plain.buffers()]


def test_buffers_of_the_first_rank_are_those_of_both_passes(ranks: Ranks) -> None:
    found = ranks.run(3, buffers_seen, [4, 6, 0])
    first_of_steps = []
    for seen, finite in found:
        assert all(finite)
        steps = torch.tensor(seen).view(STEPS, 2, -1, 2)  # passes, calls, buffers
        assert torch.equal(steps[:, 0], steps[:, 1])
        first_of_steps.append(steps[:, 0, 0])
    assert torch.equal(first_of_steps[0], first_of_steps[1])
    assert torch.equal(first_of_steps[0], first_of_steps[2])
    assert first_of_steps[0].unique(dim=0).shape[0] == STEPS


def moments_without_rows(group: dist.ProcessGroup, split: list[int]) -> Any:
    plain = network(nn.BatchNorm1d(6))
    encoder = wrap(plain, "DistributedDataParallel", group, broadcast_buffers=False)
    x = own_rows(group, split, draw(sum(split), 5))
    cached_step(encoder, [x], lambda z: z.sum(), 3)
    return plain[2].running_mean, plain[2].num_batches_tracked


def test_no_rows_move_no_buffers(ranks: Ranks) -> None:
    (_, moved), (mean, calls) = ranks.run(2, moments_without_rows, [6, 0])
    assert moved == 2
    assert calls == 0
    assert torch.equal(mean, torch.zeros_like(mean))


def with_wrong_arguments(group: dist.ProcessGroup, how: str, wrong: dict[str, Any]) -> None:
    encoder = wrap(network(), how, group)
    arguments = {"inputs": (X, X), "micro_batch_size": 2, "loss": ntxent}
    if dist.get_rank(group) == 1:
        arguments |= wrong
    cached_step(encoder, **arguments)


@pytest.mark.parametrize("how", ["DistributedDataParallel", "fully_shard"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"micro_batch_size": 0}, "got on rank 1: .*micro_batch_size to be positive, got 0"),
        ({"inputs": X}, "got on rank 1: .*inputs to be a list or tuple"),
        ({"inputs": (X,)}, "expected the number of inputs to be the same on all ranks, got 2 on"),
    ],
)
def test_what_one_rank_refuses_all_do(
    ranks: Ranks, how: str, wrong: dict[str, Any], message: str
) -> None:
    errors = ranks.errors(2, with_wrong_arguments, how, wrong)
    assert re.search(r"^ValueError: sslkern::cached_step: " + f".*{message}", errors[0])


def with_older_class(group: dist.ProcessGroup) -> None:
    encoder = FullyShardedDataParallel(
        network(), process_group=group, device_id=torch.device("cpu")
    )
    cached_step(encoder, (X, X), ntxent, 2)


def with_static_graph(group: dist.ProcessGroup) -> None:
    encoder = wrap(network(), "DistributedDataParallel", group, static_graph=True)
    cached_step(encoder, (X, X), ntxent, 2)


def test_static_graphs_are_refused(ranks: Ranks) -> None:
    for error in ranks.errors(2, with_static_graph).values():
        assert "expected encoders to be wrapped by DistributedDataParallel without" in error


def test_the_older_class_is_refused(ranks: Ranks) -> None:
    for error in ranks.errors(1, with_older_class).values():
        assert "expected encoders to be wrapped by" in error
