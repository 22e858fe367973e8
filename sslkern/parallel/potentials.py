"""Sinkhorn's potentials over the rows of all ranks, which add up what prototypes get of theirs.

Of any number of problems together, and with T iterations, that is T + 1 all-reduces of a float64
for each prototype: one maximum, which the first sums are relative to, and T sums. From the second
iteration on sums are of what rows assign, which lies between 0 and their weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslkern.ops._common import refuse
from sslkern.parallel.processes import Processes


class Rows(NamedTuple):
    """This rank's rows of a problem, or of each of P, as `sslkern.sinkhorn` takes them, or none."""

    scores: Tensor
    queue: Tensor | None
    marginal: Tensor | None
    weight: Tensor | None
    epsilon: float
    from_probabilities: bool = False

    @property
    def number(self) -> int:
        """Of the batch and the queue."""
        return sum(int(x.shape[-2]) for x in (self.scores, self.queue) if x is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of potentials: (K,) or (P, K)."""
        return (*self.scores.shape[:-2], self.scores.shape[-1])

    def log_shares(self) -> Tensor:
        """Log m, as (K,) or (P, K) or what broadcasts to it."""
        if self.marginal is None:
            return self._full((), -math.log(self.shape[-1]))
        return self.marginal.double().log()

    def mass(self) -> Tensor:
        """The sum of the weights, (1,) or (P, 1)."""
        shape = (*self.shape[:-1], 1)
        if self.weight is None:
            return self._full(shape, float(self.number))
        return self.weight.double().sum(-1, keepdim=True).expand(shape)

    def potential(self, start: Tensor | None) -> Tensor:
        """What g were after an iteration if there were no other ranks. There must be some rows."""
        batch, queue = self.scores, self.queue
        if queue is not None and batch.shape[-2] == 0:
            batch, queue = queue, None
        weight = self.weight
        if weight is not None:  # a problem without weight here may have some on other ranks
            weight = torch.where((weight == 0).all(-1, keepdim=True), 1.0, weight)
        g: Tensor = torch.ops.sslkern.sinkhorn_potential(
            *(batch, queue, self.marginal, weight, start),
            *(self.epsilon, 1, None, self.from_probabilities),
        )
        return g

    def got(self, start: Tensor | None) -> Tensor:
        """Log of what prototypes get from these rows, log sum_b w_b X_bk exp(f_b), like g.

        f follows from ``start``, or is 0; with a start the sum is over exp(g), which X lacks.
        """
        mass = self.mass()
        if self.number == 0:
            return self._full(self.shape, -math.inf)
        g = self.potential(start)
        # An iteration makes g = log m - log(got / mass), but from a start it is added to that.
        got = self.log_shares() + mass.log() + (-g if start is None else start - g)
        return torch.where(mass > 0, got, -math.inf)

    def row_potentials(self, g: Tensor) -> Tensor:
        """F of all rows, (n,) or (P, n)."""
        of_some = [x for x in (self.scores, self.queue) if x is not None and x.shape[-2] > 0]
        found = [self.plan(x, g, potentials=True)[2] for x in of_some]
        return torch.cat(found, -1) if found else self._full((*self.shape[:-1], 0), 0.0)

    def moved(self, before: Tensor, f: Tensor) -> Tensor:
        """How far the potentials of rows have, (1,) or (P, 1)."""
        steps = ((before - f).exp() - 1).abs()
        if self.weight is not None:
            steps = torch.where(self.weight > 0, steps, 0.0)
        return steps.sum(-1, keepdim=True)

    def plan(
        self,
        scores: Tensor,
        g: Tensor,
        *,
        hard: bool = False,
        potentials: bool = False,
        diagnostics: bool = False,
        out: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The plan of some rows, g, f, usage and entropy, of which the last ones may be empty."""
        arguments = (
            *(scores, None, None, None, g, self.epsilon, 0, None, self.from_probabilities),
            *(hard, potentials, diagnostics),
        )
        if out is None:
            return tuple(torch.ops.sslkern.sinkhorn_plan(*arguments))
        return out, *torch.ops.sslkern.sinkhorn_plan_out(*arguments, out)

    def _full(self, shape: tuple[int, ...], value: float) -> Tensor:
        return torch.full(shape, value, dtype=torch.float64, device=self.scores.device)


def first_got(problems: Sequence[Rows], iterations: int) -> list[Tensor]:
    """What `shared_potentials` begins with: this rank's part, which checks its rows on the way."""
    return [rows.got(None) for rows in problems] if iterations > 0 else []


def shared_potentials(
    processes: Processes,
    problems: Sequence[Rows],
    first: Sequence[Tensor],
    iterations: int,
    tolerance: float | None = None,
) -> Tensor:
    """The potentials of the prototypes, of the rows of all ranks.

    Args:
        processes: The ranks.
        problems: This rank's rows of each problem, of one shape of potentials.
        first: What `first_got` has returned.
        iterations: As many on all ranks.
        tolerance: Ends the iterations of a problem, after the same one on all ranks.

    Returns:
        (problems, K) or (problems, P, K).
    """
    if iterations == 0:
        return torch.zeros((len(problems), *problems[0].shape), dtype=torch.float64).to(
            problems[0].scores.device
        )
    log_shares = torch.stack([x.log_shares().expand(x.shape) for x in problems])
    g, mass = _first_potentials(processes, problems, torch.stack(list(first)), log_shares)
    wanted = log_shares + mass.log()
    movement = None if tolerance is None else _Movement(problems, tolerance, mass)
    for _ in range(iterations - 1):
        got = torch.stack([x.got(start) for x, start in zip(problems, g, strict=True)]).exp()
        if movement is None:
            g = g + wanted - processes.all_reduce(got).log()
            continue
        total = processes.all_reduce(torch.cat([got, movement.of(g)], -1))
        settled = movement.settle(total[..., -1:])
        if bool(settled.all()):
            break
        g = torch.where(settled, g, g + wanted - total[..., :-1].log())
    return g


def _first_potentials(
    processes: Processes, problems: Sequence[Rows], got: Tensor, log_shares: Tensor
) -> tuple[Tensor, Tensor]:
    """The first g, and the mass of all rows."""
    largest = processes.all_reduce(got, largest=True)
    # What nobody gets anything of is relative to 0: its sum is 0 and not NaN.
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    own = torch.stack([x.mass() for x in problems])
    total = processes.all_reduce(torch.cat([(got - largest).exp(), own], -1))
    mass = total[..., -1:]
    if mass.device.type == "cpu" and not bool((mass > 0).all()):
        refuse(processes.op, "row_weight", "of a positive, finite sum over all ranks", "0")
    return log_shares + mass.log() - largest - total[..., :-1].log(), mass


class _Movement:
    """How far the potentials of rows move from one iteration to the next, and who has settled."""

    def __init__(self, problems: Sequence[Rows], tolerance: float, mass: Tensor) -> None:
        self.problems, self.tolerance = problems, tolerance
        self.f: list[Tensor | None] = [None] * len(problems)
        self.settled = torch.zeros_like(mass, dtype=torch.bool)

    def of(self, g: Tensor) -> Tensor:
        """Of this rank's rows, (problems, [P,] 1)."""
        moved = []
        for i, (rows, its_g) in enumerate(zip(self.problems, g, strict=True)):
            f = rows.row_potentials(its_g)
            before = self.f[i]
            moved.append(rows.moved(torch.zeros_like(f) if before is None else before, f))
            self.f[i] = f
        return torch.stack(moved)

    def settle(self, moved: Tensor) -> Tensor:
        """Whether each problem goes on no more, given how far the rows of all ranks have moved."""
        self.settled = self.settled | (moved < self.tolerance)
        return self.settled
