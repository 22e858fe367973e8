"""Swapped prediction (SwAV): the public function, and the shapes and gradient of its operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    check_positive_number,
    check_tensor,
    refuse,
    refuse_second_derivative,
)
from sslkern.ops._embeddings import check_same_kind
from sslkern.ops.sinkhorn import check_iterations, sinkhorn_potential
from sslkern.parallel.agreement import which_require_grad
from sslkern.parallel.potentials import first_got, shared_potentials
from sslkern.parallel.processes import Sharing, are_many, meet
from sslkern.parallel.swapped_prediction import assigned_rows, mean_over_ranks

_OP = "swapped_prediction"


def swav_loss(
    high_res: Sequence[Tensor],
    low_res: Sequence[Tensor] = (),
    queue: Sequence[Tensor] | None = None,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Have each view of a batch predict how Sinkhorn-Knopp assigns the others (SwAV).

    With the scores :math:`z_v` of V views, the first A of them of high resolution, and the
    assignments :math:`q_i = \mathrm{sinkhorn}(z_i)`, which are constants:

    .. math:: L = \frac{1}{A (V - 1) B} \sum_{i \le A} \sum_{v \ne i} \sum_b
              - \sum_k q_{ibk} \log \mathrm{softmax}(z_{vb} / \tau)_k

    Neither an assignment nor a log-softmax is formed: a row of each view meets the sum of its
    targets, with one log-sum-exp.

    Args:
        high_res: Scores of the views that are assigned, and predict each other: inner products of
            embeddings with prototypes, each (B, K), float64, float32, bfloat16 or float16. Half
            types are read as they are; all arithmetic is in float32 (float64 for float64). Rows
            may lie apart (slices).
        low_res: Scores of the views that only predict, each (B, K).
        queue: Scores of earlier embeddings for each of ``high_res``, (L, K), which join the
            normalisation of its assignment; no gradient.
        temperature: Positive number, of the predictions.
        epsilon: Positive number, of the assignments; see `sslkern.sinkhorn`.
        iterations: Of the assignments.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows of
            the views and of the queues: they are assigned together, and the loss is the mean over
            all. A rank may have none of either, or of both. See `sslkern.parallel` for what that
            means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, the same on all ranks; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or value, fewer than two views, or views of different
            batch sizes, which it names; and on all ranks where they differ in what must be the
            same.
        TypeError: For a wrong dtype or layout.
        RuntimeError: For a rank that does not take part.
        NotImplementedError: When the gradient itself is differentiated, or for more than 64 views
            on a CUDA device.

    Example:
        >>> import torch, sslkern
        >>> views = [torch.zeros(5, 3000, requires_grad=True) for _ in range(4)]
        >>> loss = sslkern.swav_loss(views[:2], views[2:])
        >>> loss.backward()
        >>> print(f"{loss.item():.6f}")  # log 3000: nothing is learnt yet
        8.006368

    Equals: `sslkern.reference.swav_loss`.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """
    sharing = Sharing(gather_distributed, process_group, check)
    first: list[Tensor] = []

    def check_arguments() -> None:
        _check_views(high_res, low_res, empty=are_many(sharing))
        _check_queue(queue, high_res)
        check_positive_number(temperature, "temperature", _OP)
        check_positive_number(epsilon, "epsilon", _OP)
        check_iterations(iterations, _OP)
        if are_many(sharing):
            first.extend(first_got(assigned_rows(high_res, queue, epsilon), iterations))

    shards, options = _described(high_res, low_res)
    options |= {"temperature": temperature, "epsilon": epsilon, "iterations": iterations}
    processes = meet(_OP, sharing, shards, options, check_arguments)
    views = [*high_res, *low_res]
    if processes is not None:
        rows = assigned_rows(high_res, queue, epsilon)
        potential = shared_potentials(processes, rows, first, iterations)
        return mean_over_ranks(processes, views, potential, float(temperature), float(epsilon))
    potential = torch.stack(
        [
            sinkhorn_potential(z, None if queue is None else queue[i].detach(), epsilon, iterations)
            for i, z in enumerate(high_res)
        ]
    )
    loss: Tensor
    loss, _ = torch.ops.sslkern.swapped_prediction_fwd(
        views, potential, float(temperature), float(epsilon)
    )
    return loss


def _described(high_res: Sequence[Tensor], low_res: Sequence[Tensor]) -> tuple[Any, Any]:
    """What must be alike on all ranks: the first view stands for all, which are like it."""
    several = isinstance(high_res, list | tuple) and len(high_res) > 0
    views = [*high_res, *low_res] if several and isinstance(low_res, list | tuple) else []
    options = {
        "the number of views in high_res": len(high_res) if several else 0,
        "which views require grad": which_require_grad(views),
    }
    return {"high_res[0]": high_res[0]} if several else {"high_res": high_res}, options


def _check_views(high_res: Sequence[Tensor], low_res: Sequence[Tensor], *, empty: bool) -> None:
    """Views of one shape, of no row only where that is one of several ranks."""
    named = []
    for group, views in (("high_res", high_res), ("low_res", low_res)):
        _check_sequence(views, group)
        named += [(f"{group}[{i}]", z) for i, z in enumerate(views)]
    if not high_res or len(named) < 2:
        refuse(
            _OP,
            "high_res and low_res",
            "at least two views, one of them in high_res",
            f"{len(high_res)} and {len(low_res)}",
        )
    first_name, first = named[0]
    for name, z in named:
        check_tensor(z, name, _OP)
        if z.dim() != 2 or z.shape[1] == 0 or (z.shape[0] == 0 and not empty):
            refuse(_OP, name, "of shape (B, K) with no empty dimension", f"shape {tuple(z.shape)}")
        if z.shape[0] != first.shape[0]:
            refuse(_OP, name, f"of the batch size of {first_name}, {first.shape[0]}", z.shape[0])
        if z.shape[1] != first.shape[1]:
            refuse(_OP, name, f"of the prototypes of {first_name}, {first.shape[1]}", z.shape[1])
        if empty:  # the operators would see it too late, when the other ranks are waiting already
            check_same_kind(z, name, first, first_name, _OP)


def _check_queue(queue: Sequence[Tensor] | None, high_res: Sequence[Tensor]) -> None:
    if queue is None:
        return
    _check_sequence(queue, "queue")
    if len(queue) != len(high_res):
        refuse(_OP, "queue", f"one for each view of high_res, {len(high_res)}", len(queue))
    for i, (rows, scores) in enumerate(zip(queue, high_res, strict=True)):
        check_tensor(rows, f"queue[{i}]", _OP)
        if len(scores) == 0:  # otherwise where the rows are assigned
            check_same_kind(rows, f"queue[{i}]", scores, f"high_res[{i}]", _OP)
        if rows.dim() != 2 or rows.shape[1] != scores.shape[1]:
            refuse(
                _OP,
                f"queue[{i}]",
                f"of shape (L, K) with the K of high_res[{i}], {scores.shape[1]}",
                f"shape {tuple(rows.shape)}",
            )


def _check_sequence(value: object, name: str) -> None:
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"sslkern::{_OP}: expected {name} to be a list or tuple of tensors, "
            f"got {type(value).__name__}"
        )


def _fake_fwd(
    views: list[Tensor], potential: Tensor, temperature: float, epsilon: float
) -> tuple[Tensor, Tensor]:
    first = views[0]
    return (
        first.new_empty((), dtype=accumulate_dtype(first)),
        first.new_empty((first.shape[0], len(views), 2), dtype=torch.float64),
    )


def _fake_bwd(
    grad_loss: Tensor,
    views: list[Tensor],
    potential: Tensor,
    stats: Tensor,
    temperature: float,
    epsilon: float,
) -> list[Tensor]:
    return [z.new_empty(z.shape) for z in views]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    views, potential, temperature, epsilon = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(potential, output[1], *views)
    ctx.numbers = temperature, epsilon


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    potential, stats, *views = ctx.saved_tensors
    grads = torch.ops.sslkern.swapped_prediction_bwd(
        grad_loss, views, potential, stats, *ctx.numbers
    )
    return grads, None, None, None


_extension.register_fake("sslkern::swapped_prediction_fwd", _fake_fwd)
_extension.register_fake("sslkern::swapped_prediction_bwd", _fake_bwd)
torch.library.register_autograd(
    "sslkern::swapped_prediction_fwd", _backward, setup_context=_setup_context
)
refuse_second_derivative(_OP, "swav_loss", "swapped_prediction_bwd")
