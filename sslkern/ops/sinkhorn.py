"""Sinkhorn-Knopp: the public function, and the shapes of its operators."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    check_constant,
    check_flags,
    check_positive_number,
    check_tensor,
    refuse,
)
from sslkern.parallel.agreement import whole
from sslkern.parallel.potentials import first_got
from sslkern.parallel.processes import Sharing, are_many, meet
from sslkern.parallel.sinkhorn import (
    Wanted,
    assign_over_ranks,
    check_arguments_of_no_rows,
    check_rows,
    of_one_problem,
    rows_of,
)

_OP = "sinkhorn"

EPSILON = 0.05
"""SwAV's."""


class SinkhornPotentials(NamedTuple):
    """What the iterations find: log Q = scores / epsilon + prototype + row; float64."""

    prototype: Tensor
    """(K,) or (P, K)."""
    row: Tensor
    """(B,) or (P, B)."""


class SinkhornDiagnostics(NamedTuple):
    """What the plan says of the assignment of the batch; float64, of the soft plan."""

    marginal_error: Tensor
    """Sum of the distances of ``usage`` from the marginal of the prototypes, () or (P,): 0 when the
    iterations have converged and neither a queue nor weights share the marginal."""
    usage: Tensor
    """Mean of the plan over the rows of the batch, (K,) or (P, K)."""
    entropy: Tensor
    """Mean entropy of a row of the plan, () or (P,): from 0 for one-hot rows to log K."""


def sinkhorn(
    scores: Tensor,
    epsilon: float = EPSILON,
    iterations: int = 3,
    *,
    queue: Tensor | None = None,
    prototype_marginal: Tensor | None = None,
    row_weight: Tensor | None = None,
    hard: bool = False,
    tolerance: float | None = None,
    from_probabilities: bool = False,
    return_potentials: bool = False,
    return_diagnostics: bool = False,
    out: Tensor | None = None,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Any:
    r"""Assign rows of scores to prototypes in equal shares (Sinkhorn-Knopp, as in SwAV).

    With :math:`X = \exp(S / \epsilon)`, weights :math:`w_b` of the rows and shares :math:`m_k` of
    the prototypes, both summing to one, and potentials that start at 0:

    .. math:: g_k \leftarrow \log m_k - \log \sum_b w_b X_{bk} e^{f_b}, \quad
              f_b \leftarrow - \log \sum_k X_{bk} e^{g_k}, \quad
              Q_{bk} = X_{bk} e^{g_k + f_b}

    The rows of the plan Q sum to one, and with the iterations its columns come to the shares
    :math:`m_k` of the mass. No gradient flows through it: it is a target. Only the potentials are
    kept from one iteration to the next, and every exponential is taken of a difference to a largest
    element: the result is finite at any epsilon.

    Args:
        scores: (B, K), or (P, B, K) for P independent problems; float64, float32, bfloat16 or
            float16. Half types are read as they are; all arithmetic is in float32 (float64 for
            float64). Rows may lie apart (slices). -inf excludes a prototype from a row.
        epsilon: Positive number: the lower, the harder the assignment.
        iterations: How many, at most with a ``tolerance``; 0 gives the softmax of scores / epsilon.
        queue: Scores of more rows, (L, K) or (P, L, K), which join the normalisation and are not
            returned.
        prototype_marginal: Shares of the prototypes, (K,) or (P, K), positive, summing to one;
            equal by default.
        row_weight: Weights of the rows, (B,) or (P, B), or with a ``queue`` of its rows, too, (B +
            L,) or (P, B + L); non-negative, of any sum. A row without weight is assigned, but has
            no part in the normalisation.
        hard: Return 1 at the largest element of each row of the plan, the first of equal ones, and
            0 elsewhere.
        tolerance: Stop after the iteration in which :math:`\sum_b |e^{f_b^{old} - f_b} - 1|` is
            less, as SeLa does (which looks at every tenth iteration alone).
        from_probabilities: Take the scores as X itself, non-negative; ``epsilon`` has no part then.
            A prototype that gets nothing from all rows, in float32 less than about 1e-36, is NaN.
        return_potentials: Also return the `SinkhornPotentials`.
        return_diagnostics: Also return the `SinkhornDiagnostics`.
        out: Where to write the plan: of the shape and dtype of ``scores``, with adjacent columns;
            it may be ``scores``. Large results are several times faster to write into memory that
            has been used before.
        gather_distributed: Whether the rows are those of all ranks, each of which gives its own, B
            of the batch and L of the queue with their weights, and gets their plan: that of one
            process with all rows. A rank may have none of either, or of both. The values of
            ``prototype_marginal`` must be the same on all ranks. They exchange ``iterations`` + 1
            times P K float64; with a ``tolerance`` each waits for the numbers.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        The plan, of the shape and dtype of ``scores``; in a tuple with the potentials and the
        diagnostics where they are asked for, which are of the rows of all ranks, but for the
        potentials of rows.

    Raises:
        ValueError: For a wrong shape, device or value, and on all ranks where they differ in what
            must be the same, which it names.
        TypeError: For a wrong dtype or layout.
        RuntimeError: For a rank that does not take part.

    Example:
        >>> import torch, sslkern
        >>> scores = torch.tensor([[0.7, 0.2], [0.5, 0.6]])
        >>> plan, (g, f) = sslkern.sinkhorn(scores, 0.25, iterations=50, return_potentials=True)
        >>> print(plan)
        tensor([[0.7685, 0.2315],
                [0.2315, 0.7685]])
        >>> torch.allclose((scores / 0.25 + g + f[:, None]).exp().float(), plan)
        True

    Equals: `sslkern.reference.sinkhorn`.

    Source: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013,
    https://arxiv.org/abs/1306.0895; for prototypes: Caron et al., "Unsupervised Learning of Visual
    Features by Contrasting Cluster Assignments", 2020, https://arxiv.org/abs/2006.09882; the
    tolerance: Asano et al., "Self-labelling via simultaneous clustering and representation
    learning", 2020, https://arxiv.org/abs/1911.05371
    """
    sharing = Sharing(gather_distributed, process_group, check)
    wanted = Wanted(hard, return_potentials, return_diagnostics, out)
    numbers = (epsilon, iterations, tolerance, from_probabilities)
    given = (scores, queue, prototype_marginal, row_weight)
    first: list[Tensor] = []

    def check_arguments() -> None:
        _check_tensors(*given, out)
        _check_numbers(*numbers)
        check_flags(
            _OP,
            hard=hard,
            return_potentials=return_potentials,
            return_diagnostics=return_diagnostics,
        )
        if are_many(sharing):
            check_rows(_OP, scores, queue, row_weight, out)
            check_arguments_of_no_rows(*given, *numbers)
            first.extend(first_got([rows_of(*given, *numbers)], iterations))

    shards = {"scores": of_one_problem(scores)}
    processes = meet(_OP, sharing, shards, _options(given, numbers, wanted), check_arguments)
    if processes is None:
        found = _alone(*given, *numbers, wanted)
    else:
        rows = rows_of(*given, *numbers)
        found = assign_over_ranks(processes, rows, first, iterations, tolerance, wanted)
    out, potential, row_potential, usage, entropy = found
    results: list[Any] = [out]
    if return_potentials:
        results.append(SinkhornPotentials(potential, row_potential))
    if return_diagnostics:
        results.append(_diagnostics(usage, entropy, prototype_marginal))
    return results[0] if len(results) == 1 else tuple(results)


def _alone(
    scores: Tensor,
    queue: Tensor | None,
    marginal: Tensor | None,
    weight: Tensor | None,
    epsilon: float,
    iterations: int,
    tolerance: float | None,
    from_probabilities: bool,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """The plan, g, f, usage and entropy of this process's rows."""
    queue = None if queue is None else queue.detach()
    *options, out = wanted
    arguments = (
        *(scores.detach(), queue, marginal, weight, None, float(epsilon), int(iterations)),
        *(tolerance, from_probabilities, *options),
    )
    if out is None:
        return tuple(torch.ops.sslkern.sinkhorn_plan(*arguments))
    return out, *torch.ops.sslkern.sinkhorn_plan_out(*arguments, out)


def _options(
    given: tuple[Any, ...], numbers: tuple[object, ...], wanted: Wanted
) -> dict[str, object]:
    """What else must be the same on all ranks."""
    scores, _, marginal, weight = given
    several = isinstance(scores, Tensor) and scores.dim() == 3
    names = ("epsilon", "iterations", "tolerance", "from_probabilities")
    return dict(zip(names, numbers, strict=True)) | {
        "the number of problems": scores.shape[0] if several else "one",
        "prototype_marginal": marginal,
        **whole("prototype_marginal", marginal),
        "whether there is a row_weight": weight is not None,
        "return_diagnostics": wanted.diagnostics,
    }


# ---- checks and shapes


def sinkhorn_potential(
    scores: Tensor, queue: Tensor | None, epsilon: float, iterations: int
) -> Tensor:
    """The potentials of the prototypes alone, (K,) in float64, for losses that form the plan."""
    potential: Tensor = torch.ops.sslkern.sinkhorn_potential(
        scores.detach(), queue, None, None, None, float(epsilon), int(iterations), None, False
    )
    return potential


def _check_tensors(
    scores: Tensor,
    queue: Tensor | None,
    marginal: Tensor | None,
    weight: Tensor | None,
    out: Tensor | None,
) -> None:
    check_tensor(scores, "scores", _OP)
    if queue is not None:
        check_tensor(queue, "queue", _OP)
    constants = {"prototype_marginal": marginal, "row_weight": weight, "out": out}
    for name, value in constants.items():
        if value is not None:
            check_constant(value, name, _OP)


def _check_numbers(
    epsilon: float, iterations: int, tolerance: float | None, from_probabilities: bool
) -> None:
    check_positive_number(epsilon, "epsilon", _OP)
    check_iterations(iterations, _OP)
    check_flags(_OP, from_probabilities=from_probabilities)
    if tolerance is not None:
        check_positive_number(tolerance, "tolerance", _OP)
    if from_probabilities and epsilon != EPSILON:
        refuse(_OP, "epsilon", "left alone with from_probabilities", epsilon)


def check_iterations(iterations: int, op: str) -> None:
    """Reject what is no whole number or negative."""
    if isinstance(iterations, bool) or not isinstance(iterations, Integral | torch.SymInt):
        raise TypeError(
            f"sslkern::{op}: expected iterations to be a whole number, "
            f"got {type(iterations).__name__}"
        )
    if iterations < 0:
        refuse(op, "iterations", "at least 0", iterations)


def _diagnostics(usage: Tensor, entropy: Tensor, marginal: Tensor | None) -> SinkhornDiagnostics:
    share = 1 / usage.shape[-1] if marginal is None else marginal.to(usage.dtype)
    return SinkhornDiagnostics((usage - share).abs().sum(-1), usage, entropy)


def _fake_potential(scores: Tensor, queue: Tensor | None, *_: Any) -> Tensor:
    return scores.new_empty((*scores.shape[:-2], scores.shape[-1]), dtype=torch.float64)


def _fake_results(scores: Tensor, potentials: bool, diagnostics: bool) -> tuple[Tensor, ...]:
    *each, rows, columns = scores.shape

    def sized(given: bool, *last: int) -> Tensor:
        return scores.new_empty((*each, *last) if given else (0,), dtype=torch.float64)

    return (
        sized(potentials, columns),
        sized(potentials, rows),
        sized(diagnostics, columns),
        sized(diagnostics),
    )


def _fake_plan(scores: Tensor, *options: Any) -> tuple[Tensor, ...]:
    *_, potentials, diagnostics = options
    return (scores.new_empty(scores.shape), *_fake_results(scores, potentials, diagnostics))


def _fake_plan_out(scores: Tensor, *options: Any) -> tuple[Tensor, ...]:
    *_, potentials, diagnostics, _out = options
    return _fake_results(scores, potentials, diagnostics)


_extension.register_fake("sslkern::sinkhorn_potential", _fake_potential)
_extension.register_fake("sslkern::sinkhorn_plan", _fake_plan)
_extension.register_fake("sslkern::sinkhorn_plan_out", _fake_plan_out)
