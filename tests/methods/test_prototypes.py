"""The prototype head: its norms, how long it is frozen, and what survives a copy or a file."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.methods import Prototypes

DIM, COUNT = 5, 7

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


def make_head(freeze_iterations: int = 0, **options: Any) -> Prototypes:
    """With the same rows every time."""
    g = torch.Generator().manual_seed(0)
    return Prototypes(DIM, COUNT, freeze_iterations=freeze_iterations, generator=g, **options)


def embeddings(seed: int, n: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, DIM, generator=g))


def loss_of(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores, torch.arange(len(scores)) % COUNT)


def train(head: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    """The losses of these steps."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(head(embeddings(step)))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


# ---- scores


def test_scores_are_products_with_unit_rows() -> None:
    head = make_head()
    with torch.no_grad():
        head.weight.mul_(torch.linspace(0.1, 10, COUNT)[:, None])
    rows = F.normalize(head.weight.detach())
    z = 3 * embeddings(0)
    torch.testing.assert_close(head(z), z @ rows.T)
    torch.testing.assert_close(head.weight.detach(), rows)
    assert head(z.view(2, 3, DIM)).shape == (2, 3, COUNT)
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_first_rows_are_random_of_unit_norm() -> None:
    head = make_head()
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(COUNT))
    assert torch.equal(head.weight, make_head().weight)
    assert not torch.equal(head.weight, Prototypes(DIM, COUNT).weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_normalization_keeps_every_bit_of_unit_rows(dtype: torch.dtype) -> None:
    head = Prototypes(130, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        head.weight.mul_(3)
    head.normalize_rows()
    once = head.weight.detach().clone()
    head.normalize_rows()
    assert torch.equal(head.weight, once)
    norms = once.double().norm(dim=1)
    assert (norms - 1).abs().max() <= torch.finfo(dtype).eps


def test_rows_of_zeros_stay() -> None:
    head = make_head()
    with torch.no_grad():
        head.weight[2] = 0
    assert head(embeddings(0)).isfinite().all()
    assert head.weight[2].abs().max() == 0


def test_rows_are_left_alone_without_normalization() -> None:
    head = make_head(normalize=False)
    with torch.no_grad():
        head.weight.mul_(3)
    before = head.weight.detach().clone()
    torch.testing.assert_close(head(embeddings(0)), embeddings(0) @ before.T)
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_of_unit_norm_in_every_step(name: str) -> None:
    head = make_head()
    optimizer = OPTIMIZERS[name](head.parameters())
    for step in range(4):
        train(head, optimizer, range(step, step + 1))
        assert (head.weight.norm(dim=1) - 1).abs().max() > 1e-4  # what the optimizer left
        head(embeddings(step))
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(COUNT))


def test_two_forward_passes_share_a_backward_pass() -> None:
    head = make_head()
    with torch.no_grad():
        head.weight.mul_(3)
    z_a, z_b = embeddings(0).requires_grad_(), embeddings(1).requires_grad_()
    (loss_of(head(z_a)) + loss_of(head(z_b))).backward()
    rows = head.weight.detach().clone().requires_grad_()
    expected = loss_of(embeddings(0) @ rows.T) + loss_of(embeddings(1) @ rows.T)
    expected.backward()
    torch.testing.assert_close(head.weight.grad, rows.grad)
    assert z_a.grad is not None
    assert z_b.grad is not None


# ---- frozen iterations


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("freeze_iterations", [0, 1, 3])
def test_rows_do_not_move_for_the_first_iterations(freeze_iterations: int, name: str) -> None:
    head = make_head(freeze_iterations)
    first = head.weight.detach().clone()
    optimizer = OPTIMIZERS[name](head.parameters())
    for step in range(freeze_iterations):
        assert head.frozen
        train(head, optimizer, range(step, step + 1))
        assert head.weight.grad is None
        assert not optimizer.state
        assert torch.equal(head.weight, first)
    assert not head.frozen
    train(head, optimizer, range(freeze_iterations, freeze_iterations + 1))
    assert not torch.equal(head.weight, first)
    assert int(head.iteration) == freeze_iterations


def test_training_after_the_freeze_is_that_of_a_new_head() -> None:
    """No momentum and no steps of Adam were gathered before."""
    losses = []
    for frozen in (0, 3):
        head = make_head(frozen)
        optimizer = OPTIMIZERS["adam"](head.parameters())
        losses.append(train(head, optimizer, range(3 - frozen, 8))[-5:])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_gradients_that_are_zeroed_are_dropped_too() -> None:
    head = make_head(2)
    for step in range(3):
        head.zero_grad(set_to_none=False)
        loss_of(head(embeddings(step))).backward()
        assert (head.weight.grad is None) == (step < 2)


def test_embeddings_have_their_gradient_all_along() -> None:
    head = make_head(1)
    z = embeddings(0).requires_grad_()
    loss_of(head(z)).backward()
    expected = embeddings(0).requires_grad_()
    loss_of(expected @ head.weight.detach().T).backward()
    torch.testing.assert_close(z.grad, expected.grad)


def test_backward_passes_count_and_nothing_else_does() -> None:
    head = make_head(3)
    with torch.no_grad():
        head(embeddings(0))
    head.eval()(embeddings(0))
    head.train()
    assert int(head.iteration) == 0
    (loss_of(head(embeddings(0))) + loss_of(head(embeddings(1)))).backward()
    assert int(head.iteration) == 1


# ---- state


@pytest.mark.parametrize("saved_after", [0, 2, 4, 6])
@pytest.mark.parametrize("assign", [False, True])
def test_training_resumes_from_a_state(assign: bool, saved_after: int) -> None:
    """In the middle of the frozen iterations or later: the same losses as without a break."""
    head = make_head(4)
    optimizer = OPTIMIZERS["sgd"](head.parameters())
    train(head, optimizer, range(saved_after))
    state = copy.deepcopy((head.state_dict(), optimizer.state_dict()))
    expected = train(head, optimizer, range(saved_after, 8))
    resumed = Prototypes(DIM, COUNT, freeze_iterations=4)
    resumed.load_state_dict(state[0], assign=assign)
    optimizer = OPTIMIZERS["sgd"](resumed.parameters())
    optimizer.load_state_dict(state[1])
    losses = train(resumed, optimizer, range(saved_after, 8))
    assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
    assert torch.equal(resumed.weight, head.weight)


def test_an_earlier_state_is_frozen_again() -> None:
    head = make_head(1)
    state = copy.deepcopy(head.state_dict())
    optimizer = OPTIMIZERS["sgd"](head.parameters())
    train(head, optimizer, range(3))
    head.load_state_dict(state)
    train(head, optimizer, range(1))
    assert head.weight.grad is None


def through_a_file(head: Prototypes) -> Prototypes:
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    loaded: Prototypes = torch.load(file, weights_only=False)
    return loaded


def through_the_meta_device(head: Prototypes) -> Prototypes:
    state = copy.deepcopy(head.state_dict())
    head.to("meta").to_empty(device="cpu")
    head.load_state_dict(state)
    return head


def through_another_dtype(head: Prototypes) -> Prototypes:
    """With new parameters rather than new contents."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return head.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize(
    "changed",
    [
        copy.deepcopy,
        through_a_file,
        through_the_meta_device,
        through_another_dtype,
        lambda head: head.double().float(),
    ],
    ids=["copy", "file", "meta", "new parameters", "dtypes"],
)
def test_copies_stay_frozen_as_long(changed: Callable[[Prototypes], Prototypes]) -> None:
    head = make_head(3)
    train(head, OPTIMIZERS["sgd"](head.parameters()), range(1))
    other = changed(head)
    for step in range(3):
        loss_of(other(embeddings(step))).backward()
        assert (other.weight.grad is None) == (step < 2)
    assert int(other.iteration) == 3


def test_a_copy_counts_on_its_own() -> None:
    head = make_head(2)
    other = copy.deepcopy(head)
    loss_of(other(embeddings(0))).backward()
    assert (int(head.iteration), int(other.iteration)) == (0, 1)


def test_a_teacher_may_be_a_copy_without_gradients() -> None:
    teacher = copy.deepcopy(make_head(2).requires_grad_(False))
    assert copy.deepcopy(teacher)(embeddings(0)).requires_grad is False


# ---- peers


@pytest.mark.parametrize("frozen", [0, 3])
def test_trains_as_lightly_does(frozen: int) -> None:
    """Whose head has a bias, is told the step, and is normalised by the caller."""
    try:
        module: Any = peers.import_peer("lightly", "lightly.models.modules.heads")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    ours = make_head(frozen).double()
    theirs = module.SwaVPrototypes(DIM, COUNT, n_steps_frozen_prototypes=frozen).double()
    with torch.no_grad():
        theirs.heads[0].weight.copy_(ours.weight)
        theirs.heads[0].bias.zero_()
    optimizers = [
        torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        for weight in (ours.weight, theirs.heads[0].weight)
    ]
    for step in range(6):
        with torch.no_grad():
            theirs.normalize()
        z = embeddings(step).double().requires_grad_()  # which gives a loss its gradient
        losses = [loss_of(ours(z)), loss_of(theirs(z, step))]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    assert int(ours.iteration) == frozen


# ---- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim to be positive, got 0"),
        ({"count": -1}, ValueError, "count to be positive, got -1"),
        ({"count": [3, 4]}, TypeError, "count to be an integer, got list"),
        ({"freeze_iterations": -1}, ValueError, "freeze_iterations to be positive, got -1"),
        ({"freeze_iterations": 1.5}, TypeError, "freeze_iterations to be an integer, got float"),
    ],
)
def test_bad_numbers_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^sslkern::Prototypes: expected {message}"):
        Prototypes(**{"dim": DIM, "count": COUNT, **options})


@pytest.mark.parametrize("shape", [(), (4,), (6, 4), (2, DIM, 3)])
def test_embeddings_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected embeddings to be of shape \(..., 5\), got"):
        make_head()(torch.zeros(shape))


# ---- torch integration


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_is_the_same(backend: str) -> None:
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        head = make_head(2)
        function = torch.compile(head, backend=backend, fullgraph=True) if compiled else head
        losses = train(function, OPTIMIZERS["sgd"](head.parameters()), range(5))
        results.append((torch.stack(losses), head.weight.detach(), head.iteration))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert int(results[1][2]) == 2


def test_compiled_forward_passes_share_a_backward_pass() -> None:
    torch._dynamo.reset()
    grads = []
    for compiled in (False, True):
        head = make_head(1)
        function = torch.compile(head, backend="aot_eager", fullgraph=True) if compiled else head
        for _ in range(2):
            with torch.no_grad():
                head.weight.mul_(3)
            (loss_of(function(embeddings(0))) + loss_of(function(embeddings(1)))).backward()
        grads.append(head.weight.grad)
        assert int(head.iteration) == 1
    torch.testing.assert_close(*grads)


def test_autocast_trains() -> None:
    head = make_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(embeddings(0))
    loss_of(scores.float()).backward()
    assert scores.dtype == torch.bfloat16
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32


def test_works_inside_inference_mode() -> None:
    head = make_head()
    expected = head(embeddings(0)).detach()
    with torch.inference_mode():
        assert torch.equal(head(embeddings(0)), expected)
    loss_of(head(embeddings(0))).backward()


def test_print_says_how_it_was_made() -> None:
    expected = "Prototypes(dim=5, count=7, freeze_iterations=2, normalize=True)"
    assert repr(make_head(2)) == expected
