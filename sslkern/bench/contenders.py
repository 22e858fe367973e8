"""What a benchmark compares: a loss with its inputs (`Case`) and the ways to compute it.

Another loss is one more file beside ``ntxent.py`` with a `Case`, and one entry in
``sslkern.bench.CASES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sslkern
from sslkern import reference

LossFn = Callable[..., Tensor]
"""Inputs of the case -> scalar loss."""

Call = Callable[[LossFn], LossFn]
"""A function of `sslkern` or `sslkern.reference` -> the same with the options of the case."""


class UnavailableError(Exception):
    """A contender cannot take part, for a reason worth printing in the table."""


@dataclass(frozen=True)
class Size:
    """N x D: ``rows`` embeddings of ``dim`` features; what N counts is the loss's to say."""

    rows: int
    dim: int

    def __str__(self) -> str:
        """As on the command line: ``8192x128``."""
        return f"{self.rows}x{self.dim}"


@dataclass(frozen=True)
class Problem:
    """One loss at one size and dtype, with its inputs."""

    size: Size
    dtype: torch.dtype
    inputs: tuple[Tensor, ...]
    gradients: int | None = None
    """See `Case`."""


@dataclass(frozen=True)
class Outcome:
    """What one forward and backward gives."""

    loss: Tensor
    """Or whatever else the function returns, of any shape."""
    grads: tuple[Tensor, ...]


Step = Callable[[], Outcome | None]
"""One forward and backward on fresh leaves. A floor computes no loss and gives None."""


@dataclass(frozen=True)
class Contender:
    """One way to compute the loss and its gradients."""

    name: str
    about: str
    prepare: Callable[[Problem], Step]
    """Imports what it needs and returns the step; raises `UnavailableError` with the reason."""
    matrices: float = 0.0
    """How many matrices of all similarities (in the working dtype) it holds at its peak, measured
    once: a guard against the kernel's out-of-memory killer, which takes the whole process without
    an error."""
    compiles: bool = False
    """Whether the first call at a size compiles; memory is then measured on the second call."""
    is_floor: bool = False
    """Whether it is a lower bound to compare with, not a way to compute the loss."""
    peer: str | None = None
    """The library it is from, a name of `sslkern.bench.peers.PEERS`; None for ours and torch's."""


def steps_of_four(first: int, last: int, dim: int) -> tuple[Size, ...]:
    """Sizes of ``dim`` features, from ``first`` rows to at most ``last``, each time four times."""
    sizes = []
    while first <= last:
        sizes.append(Size(first, dim))
        first *= 4
    return tuple(sizes)


def square(size: Size) -> int:
    """As many columns as rows: all embeddings are compared with each other."""
    return size.rows


@dataclass(frozen=True)
class Case:
    """A loss: how to make its inputs, its definition, its contenders."""

    name: str
    title: str
    make_inputs: Callable[[Size, torch.dtype], tuple[Tensor, ...]]
    check_size: Callable[[Size], None]
    """Raises ValueError for a size the loss does not have."""
    reference: LossFn
    reference_matrices: float
    """Matrices of all similarities in float64 that the reference holds at its peak."""
    flops: Callable[[Size], int]
    """Floating-point operations of forward and backward that no algorithm can avoid."""
    contenders: tuple[Contender, ...]
    default_sizes: tuple[Size, ...]
    columns: Callable[[Size], int] = square
    """Columns of the matrix of all similarities, which has ``size.rows`` rows."""
    gradients: int | None = None
    """How many of the inputs, from the first on, get a gradient; None for all. 0 for a function
    that has none."""
    tiny_rows: int = 64
    """Of a first problem, whose memory is not measured: as many as the loss wants."""
    peer_sizes: tuple[Size, ...] = ()
    """What ``bench --peers`` tries, from small to large, at one D; none without a peer."""

    @property
    def against_peers(self) -> tuple[Contender, ...]:
        """Who takes part in ``bench --peers``: ours, its reference, and the other libraries'."""
        ours = ("sslkern", "eager")
        return tuple(c for c in self.contenders if c.name in ours or c.peer is not None)

    @property
    def passes(self) -> str:
        """What is timed."""
        return "forward" if self.gradients == 0 else "forward + backward"

    def problem(self, size: Size, dtype: torch.dtype, device: str = "cpu") -> Problem:
        """Inputs of this size, the same in every process and on every device."""
        inputs = tuple(x.to(device) for x in self.make_inputs(size, dtype))
        return Problem(size, dtype, inputs, self.gradients)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: float32 for half inputs, otherwise the inputs' own."""
    return torch.promote_types(dtype, torch.float32)


def differentiate(
    loss_fn: LossFn, inputs: tuple[Tensor, ...], gradients: int | None = None
) -> Outcome:
    """One forward and backward of ``loss_fn`` on fresh leaves, so that no gradient accumulates.

    Forward alone for a function without gradients.
    """
    if gradients == 0:
        return Outcome(loss_fn(*inputs), ())
    leaves = [x.detach().requires_grad_() for x in inputs[:gradients]]
    loss = loss_fn(*leaves, *inputs[len(leaves) :])
    loss.backward()  # type: ignore[no-untyped-call]
    grads = tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)
    return Outcome(loss.detach(), grads)


def loss_contender(
    name: str,
    about: str,
    load: Callable[[Size], LossFn],
    *,
    matrices: float = 0.0,
    compiles: bool = False,
    peer: str | None = None,
) -> Contender:
    """A contender given by ``load``, which returns its loss function or raises.

    Args:
        name: What the table calls it.
        about: One line for the help and the JSON.
        load: Imports what the contender needs and returns the loss function for this size; raises
            `UnavailableError` where it cannot take part.
        matrices: See `Contender`.
        compiles: See `Contender`.
        peer: See `Contender`.
    """

    def prepare(problem: Problem) -> Step:
        loss_fn = load(problem.size)
        return lambda: differentiate(loss_fn, problem.inputs, problem.gradients)

    return Contender(name, about, prepare, matrices=matrices, compiles=compiles, peer=peer)


def standard_contenders(
    function: str,
    call: Call = lambda loss_fn: loss_fn,
    *,
    kernel: float = 0,
    eager: float,
    compiled: float,
) -> tuple[Contender, Contender, Contender]:
    """What takes part in every case: the kernel, its reference, and the reference compiled.

    Args:
        function: Name of the public function, which is also that of its reference.
        call: Gives the function the options of the case; it is called with the case's inputs.
        kernel: The kernel's `Contender.matrices`.
        eager: The same of the reference.
        compiled: The same of the compiled reference.
    """
    definition = call(getattr(reference, function))

    def load_kernel(size: Size) -> LossFn:
        try:
            return call(getattr(sslkern, function))
        except AttributeError as error:
            raise UnavailableError("not built: see python -m sslkern info") from error

    return (
        loss_contender("sslkern", "the fused kernel", load_kernel, matrices=kernel),
        loss_contender(
            "eager", "sslkern.reference, eager PyTorch", lambda size: definition, matrices=eager
        ),
        loss_contender(
            "compile",
            "torch.compile of the reference, one graph per size",
            lambda size: torch.compile(definition, dynamic=False),
            matrices=compiled,
            compiles=True,
        ),
    )
