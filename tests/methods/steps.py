"""Training steps of a method beside the same steps written out in plain PyTorch."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sslkern.methods import Method

TOLERANCE = 1e-9
Batch = tuple[Tensor, ...]


def nothing(method: Method, progress: float) -> None:
    """What follows a step of a method without a teacher."""


def check_steps(
    method: Method,
    plain_loss: Callable[..., Tensor],
    batches: Sequence[Batch],
    plain_update: Callable[..., None] = nothing,
) -> None:
    """Losses, parameters and every buffer agree after each step, with a save and load in between.

    Args:
        method: In float64, before its first step.
        plain_loss: A copy of the method and a batch -> loss. It takes modules and buffers from the
            copy as storage, and writes formulas out: no forward pass of the method, nothing of
            sslkern. It also writes what the method remembers of a batch into the copy's buffers.
        batches: Arguments of the forward passes, one tuple a step.
        plain_update: The copy and the progress -> nothing; moves the copy's teacher by formula.
    """
    plain = copy.deepcopy(method)
    optimizer, plain_optimizer = make_optimizer(method), make_optimizer(plain)
    for i, batch in enumerate(batches):
        losses = []
        for loss_of, steps in (
            (method, optimizer),
            (partial(plain_loss, plain), plain_optimizer),
        ):
            torch.manual_seed(i)  # of what is drawn within a step
            loss = loss_of(*batch)
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1], rtol=TOLERANCE, atol=TOLERANCE)
        progress = (i + 1) / len(batches)
        method.update(progress)
        with torch.no_grad():
            plain_update(plain, progress)
        compare_states(method, plain)
        method, optimizer = reloaded(method, optimizer)


def make_optimizer(method: Method) -> torch.optim.SGD:
    return torch.optim.SGD(method.trainable(), lr=0.05, momentum=0.9)


def compare_states(method: nn.Module, plain: nn.Module) -> None:
    expected = plain.state_dict()
    for name, value in method.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


def reloaded(method: Method, optimizer: torch.optim.SGD) -> tuple[Method, torch.optim.SGD]:
    """The method and its optimizer from a file, into copies whose weights were spoiled."""
    file = io.BytesIO()
    torch.save({"method": method.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = copy.deepcopy(method)
    with torch.no_grad():
        for value in (*fresh.parameters(), *fresh.buffers()):
            value.zero_()
    fresh.load_state_dict(state["method"])
    fresh_optimizer = make_optimizer(fresh)
    fresh_optimizer.load_state_dict(state["optimizer"])
    return fresh, fresh_optimizer


def small_encoder(features: int = 12) -> nn.Sequential:
    """Images (B, 1, 4, 4) -> (B, features), in float64, with a batch norm."""
    layers = [nn.Flatten(), nn.Linear(16, features), nn.BatchNorm1d(features), nn.ReLU()]
    return nn.Sequential(*layers).double()


def image_batches(views: int = 2, batch: int = 6, steps: int = 3) -> list[Batch]:
    """Views (B, 1, 4, 4), float64, for each of the steps."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 1, 4, 4)
    return [
        tuple(torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(views))
        for _ in range(steps)
    ]


def unit(z: Tensor) -> Tensor:
    """Rows of unit norm."""
    return z / z.norm(dim=-1, keepdim=True)


def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """A plain exponential moving average of the parameters."""
    for to, value in zip(teacher.parameters(), student.parameters(), strict=True):
        to.mul_(momentum).add_(value, alpha=1 - momentum)
