"""What each row sums over the other rows of its class on all ranks: the positives of SupCon.

Rows are sorted by class before they travel. A few at a time then meet the rows of their classes
alone, in plain PyTorch: work and memory are those of the positive pairs, not of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._embeddings import full_precision
from sslkern.parallel.blocks import Tensors, add, visit_blocks
from sslkern.parallel.gradients import once
from sslkern.parallel.processes import Processes

_ROWS, _COLUMNS = 256, 16384
"""Of the products in memory at a time."""


class PositiveSums(NamedTuple):
    """Of each row, (N,) float64; without a positive -inf, 0, 0 and 0."""

    lse: Tensor
    total: Tensor
    pair_loss: Tensor  # 0 unless log-sum-exps over the negatives are given
    number: Tensor  # of positives, int64


def positive_sums(
    processes: Processes,
    name: str,
    x: Tensor,
    labels: Tensor,
    scale: Tensor,
    lse_negative: Tensor | None,
) -> PositiveSums:
    """Sums over the positives p of i of s_ip = scale x_i . x_p, of all ranks.

    Args:
        processes: The ranks.
        name: Of the shards.
        x: This rank's rows (N, D) as they enter the products.
        labels: Their classes, (N,).
        scale: One element.
        lse_negative: (N,) float64: where given, the sum of log(1 + exp(lse_negative_i - s_ip)).
    """
    order = labels.argsort(stable=True)
    back = order.argsort()
    negative = None if lse_negative is None else lse_negative[order]
    found = _Positives.apply(processes, name, x[order], labels[order], scale, negative)  # type: ignore
    return PositiveSums(*(y[back] for y in found))


class _Positives(Function):
    @staticmethod
    def forward(
        ctx: Any,
        processes: Processes,
        name: str,
        x: Tensor,
        labels: Tensor,
        scale: Tensor,
        negative: Tensor | None,
    ) -> tuple[Tensor, ...]:
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        lse, total, pair_loss = zero - math.inf, zero, zero.clone()
        count = torch.zeros_like(labels)
        factor = scale.reshape(()).to(x.dtype)

        def visit(rank: int, tensors: Tensors) -> Tensors:
            other, classes = tensors
            for rows, columns, same in _tiles(labels, classes, rank == processes.rank):
                s = factor * (x[rows] @ other[columns].T)
                inside = s.masked_fill(~same, -math.inf).double().logsumexp(1)
                lse[rows] = torch.logaddexp(lse[rows], inside)
                total[rows] += s.masked_fill(~same, 0).double().sum(1)
                count[rows] += same.sum(1)
                if negative is not None:
                    over = negative[rows, None].to(s.dtype) - s
                    loss = torch.logaddexp(over, torch.zeros_like(over))
                    pair_loss[rows] += loss.masked_fill(~same, 0).double().sum(1)
            return []

        with full_precision(x):
            visit_blocks(processes, name, [x, labels], visit)
        ctx.processes, ctx.name = processes, name
        ctx.save_for_backward(x, labels, scale, negative, lse)
        ctx.mark_non_differentiable(count)
        return lse, total, pair_loss, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, labels, scale, negative, lse = ctx.saved_tensors
        g_lse, g_total, g_pairs, _ = grads
        of_rows = _Statistics(
            g_lse, lse, g_total, g_pairs, torch.zeros_like(lse) if negative is None else negative
        )
        with torch.no_grad(), full_precision(x):
            grad_x, grad_scale, grad_negative = _gradients(
                ctx.processes, ctx.name, x, labels, scale, of_rows, negative is not None
            )
        found = (None, None, grad_x, None, grad_scale, grad_negative)
        needed = tuple(
            g if need else None for g, need in zip(found, ctx.needs_input_grad, strict=True)
        )
        return once(ctx.processes.op, "supcon_loss", needed, (x, scale, *grads[:3]))


class _Statistics(NamedTuple):
    """Of rows: gradients of their sums, and what the pairs' shares in them are made of."""

    g_lse: Tensor
    lse: Tensor
    g_total: Tensor
    g_pairs: Tensor
    negative: Tensor

    def share(self, s: Tensor, pairs: bool) -> tuple[Tensor, Tensor | None]:
        """The gradients of products (rows, ...) of these rows, and shares in the pairs' losses."""
        g_lse, lse, g_total, g_pairs, negative = (y[:, None].to(s.dtype) for y in self)
        # A row without a positive has an lse of -inf, and no pair that is looked at.
        grad = g_lse * (s - lse).exp() + g_total
        if not pairs:
            return grad, None
        share = torch.sigmoid(negative - s)
        return grad - g_pairs * share, share

    def of(self, rows: slice) -> _Statistics:
        """Those of some rows."""
        return _Statistics(*(y[rows] for y in self))


def _gradients(
    processes: Processes,
    name: str,
    x: Tensor,
    labels: Tensor,
    scale: Tensor,
    own: _Statistics,
    pairs: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of rows, scale and log-sum-exps: a pair is met by both of its rows, so none are collected."""
    grad_x, weight = torch.zeros_like(x), torch.zeros_like(own.lse)
    grad_scale = torch.zeros((), dtype=torch.float64, device=x.device)
    factor = scale.reshape(()).to(x.dtype)

    def visit(rank: int, tensors: Tensors) -> Tensors:
        nonlocal grad_scale
        other, classes, packed = tensors
        theirs = _Statistics(*packed.unbind(1))
        for rows, columns, same in _tiles(labels, classes, rank == processes.rank):
            products = x[rows] @ other[columns].T
            s = factor * products
            mine, share = own.of(rows).share(s, pairs)
            mine = mine.masked_fill(~same, 0)
            back, _ = theirs.of(columns).share(s.T, pairs)
            both = mine + back.T.masked_fill(~same, 0)
            grad_x[rows] += factor * (both @ other[columns])
            grad_scale = grad_scale + (mine * products).double().sum()
            if share is not None:
                weight[rows] += share.masked_fill(~same, 0).double().sum(1)
        return []

    visit_blocks(processes, name, [x, labels, torch.stack(list(own), 1)], visit, add)
    of_negative = own.g_pairs * weight if pairs else None
    return grad_x, grad_scale.reshape(scale.shape).to(scale.dtype), of_negative


def _tiles(labels: Tensor, classes: Tensor, itself: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows and columns that share a class somewhere, both sorted, and which pairs do."""
    if len(labels) == 0 or len(classes) == 0:
        return
    place = torch.arange(len(labels), device=labels.device)
    begins = place[::_ROWS]
    ends = (begins + _ROWS).clamp(max=len(labels))
    first = torch.searchsorted(classes, labels[begins])
    last = torch.searchsorted(classes, labels[ends - 1], right=True)
    for begin, end, left, right in torch.stack([begins, ends, first, last], 1).tolist():
        for column in range(left, right, _COLUMNS):
            rows, columns = slice(begin, end), slice(column, min(column + _COLUMNS, right))
            same = labels[rows, None] == classes[columns]
            if itself:
                same &= place[rows, None] != place[columns]
            yield rows, columns, same
