"""Log-sum-exps over the keys of all ranks, with gradients: what the softmax losses are made of.

    value_i = log sum_{j in A_i} exp(s_ij) - (e / |A_i|) sum_{j in A_i} s_ij

over the keys j of all ranks, s_ij = scale_j xh_i . yh_j + bias_j, A_i the keys of another id than
that of i, e the label smoothing; and, if symmetric, the same of columns. See csrc/contract/
info_nce.h. Each block of keys that comes by is one call of the operators, whose statistics are
merged; the backward pass is a second round, with the statistics of whole rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._common import accumulate_dtype
from sslkern.parallel.blocks import Tensors, add, visit_blocks, visit_pairs
from sslkern.parallel.gradients import once
from sslkern.parallel.processes import Processes

LN2 = math.log(2)


class Contrast(NamedTuple):
    """What is contrasted with what.

    ``keys`` names the shards of the keys. ``mirrored``: the keys are the queries themselves, and
    so are their ids: two rows meet once, for the sums of both. Then the scale is one for all, and
    there is no bias and no smoothing.
    """

    processes: Processes
    definition: str
    keys: str
    normalize: bool = True
    symmetric: bool = False
    mirrored: bool = False
    label_smoothing: float = 0.0


class LogSumExps(NamedTuple):
    """Values in float64, and the numbers |A|, which have no gradient."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]  # of no elements unless symmetric


def log_sum_exp(
    how: Contrast,
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
) -> LogSumExps:
    """Values of this rank's rows and, if symmetric, of its keys.

    The scale is a scalar for all, or a vector with one for each key.
    """
    found = _LogSumExp.apply(how, query, key, scale, bias, query_ids, key_ids)  # type: ignore
    rows, columns, count_rows, count_columns = found
    return LogSumExps((rows, count_rows), (columns, count_columns))


def over_negatives(lse: Tensor, positive: Tensor) -> Tensor:
    """log(exp(lse) + exp(positive)) - positive: exact where the positive dominates."""
    over = lse - positive
    return torch.logaddexp(over, torch.zeros_like(over))


class _Block(NamedTuple):
    """What of the keys travels."""

    key: Tensor
    scale: Tensor
    bias: Tensor | None
    ids: Tensor | None

    def pack(self) -> list[Tensor]:
        """The tensors with a row per key: one scale for all does not travel."""
        scale = [self.scale] if self.scale.dim() == 1 else []
        return [x for x in (self.key, *scale, self.bias, self.ids) if x is not None]

    def unpack(self, tensors: Tensors) -> _Block:
        """The same of another rank."""
        rest = iter(tensors)
        key = next(rest)
        scale = next(rest) if self.scale.dim() == 1 else self.scale
        bias = None if self.bias is None else next(rest)
        return _Block(key, scale, bias, None if self.ids is None else next(rest))


class _LogSumExp(Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: Contrast,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        query_ids: Tensor | None,
        key_ids: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if how.mirrored:
            rows, columns = _statistics_of_pairs(how, query, scale, query_ids), _nothing(query[:0])
        else:
            own = _Block(key, scale, bias, key_ids)
            rows, columns = _statistics_of_rows(how, query, query_ids, own)
        ctx.how = how
        ctx.save_for_backward(query, key, scale, bias, query_ids, key_ids, rows, columns)
        counts = rows[:, 2].clone(), columns[:, 2].clone()
        ctx.mark_non_differentiable(*counts)
        return _value(how, rows), _value(how, columns), *counts

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_columns: Tensor, *_: Any) -> Any:
        query, key, scale, bias, query_ids, key_ids, rows, columns = ctx.saved_tensors
        need = ctx.needs_input_grad[1:5]
        with torch.no_grad():
            if ctx.how.mirrored:
                grads = _gradients_of_pairs(
                    ctx.how, query, scale, query_ids, (grad_rows, rows), need[0], need[2]
                )
            else:
                own = _Block(key, scale, bias, key_ids)
                upstream = _Upstream(grad_rows, rows, grad_columns, columns)
                grads = _gradients(ctx.how, query, query_ids, own, upstream, *need)
        inputs = (query, key, scale)
        return once(ctx.how.processes.op, ctx.how.definition, (None, *grads, None, None), inputs)


# ---- statistics of rows: (rows, 3) float64 of the log-sum-exp in base 2, as the operators have it,
# the logits' sum and their number


def _nothing(rows: Tensor) -> Tensor:
    found = torch.zeros(len(rows), 3, dtype=torch.float64, device=rows.device)
    found[:, 0] = -math.inf
    return found


def _statistics_of_rows(
    how: Contrast, query: Tensor, query_ids: Tensor | None, own: _Block
) -> tuple[Tensor, Tensor]:
    """Of this rank's queries over the keys of all and, if symmetric, of its keys."""
    rows = _nothing(query)

    def visit(_: int, tensors: Tensors) -> Tensors:
        nonlocal rows
        found, columns = _statistics(how, query, query_ids, own.unpack(tensors))
        rows = _merge([rows], [found])[0]
        return [columns] if how.symmetric else []

    collected = visit_blocks(how.processes, how.keys, own.pack(), visit, _merge)
    return rows, collected[0] if how.symmetric else _nothing(query[:0])


def _statistics_of_pairs(how: Contrast, rows: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
    """Of rows over the rows of all, by blocks that are looked at from both sides."""
    own = _Block(rows, scale, None, ids)
    both = how._replace(symmetric=True)
    stats = _nothing(rows)

    def receive(mine: slice, found: Tensors) -> None:
        stats[mine] = _merge([stats[mine]], found)[0]

    def visit(rank: int, mine: slice, tensors: Tensors) -> Tensors:
        itself = rank == how.processes.rank
        of_mine = None if ids is None else ids[mine]
        found, columns = _statistics(
            how if itself else both, rows[mine], of_mine, own.unpack(tensors)
        )
        receive(mine, [found])
        return [] if itself else [columns]

    visit_pairs(how.processes, how.keys, own.pack(), visit, receive)
    return stats


def _statistics(
    how: Contrast, query: Tensor, query_ids: Tensor | None, block: _Block
) -> tuple[Tensor, Tensor]:
    """Of the queries and of the keys of a block."""
    if len(query) == 0 or len(block.key) == 0:
        return _nothing(query), _nothing(block.key)
    e = how.label_smoothing
    loss, loss_col, stats, stats_col, *_ = torch.ops.sslkern.info_nce_fwd(
        *(query, block.key, None, block.scale, block.bias, query_ids, block.ids),
        *(how.normalize, how.symmetric, e, False),
    )
    return _collected(loss, stats, e), _collected(loss_col, stats_col, e)


def _collected(loss: Tensor, stats: Tensor, e: float) -> Tensor:
    """From what the operator returns: a smoothed loss is the log-sum-exp less e times the mean."""
    lse, count = stats.unbind(1)
    sum_of_logits = torch.zeros_like(lse)
    if e > 0:
        sum_of_logits = torch.where(count > 0, count * (lse * LN2 - loss.double()) / e, 0.0)
    return torch.stack([lse, sum_of_logits, count], 1)


def _merge(x: Tensors, y: Tensors) -> Tensors:
    (a,), (b,) = x, y
    return [torch.cat([torch.logaddexp2(a[:, :1], b[:, :1]), a[:, 1:] + b[:, 1:]], 1)]


def _value(how: Contrast, stats: Tensor) -> Tensor:
    lse, sum_of_logits, count = stats.unbind(1)
    e = how.label_smoothing
    return lse * LN2 - e * sum_of_logits / count if e > 0 else lse * LN2


# ---- gradients


class _Upstream(NamedTuple):
    """Gradients of the values, and the statistics of whole rows, of this rank's rows and keys."""

    g: Tensor
    rows: Tensor
    h: Tensor
    columns: Tensor

    def of_rows(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """As the operators read them."""
        return _readable(self.g, self.rows, like)

    def of_columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Likewise."""
        return _readable(self.h, self.columns, like)


def _readable(grad: Tensor, stats: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients, and (rows, 2) of log-sum-exps and numbers; rows without any key have none."""
    alone = stats[:, 2:] == 0
    pairs = torch.cat([stats[:, :1], stats[:, 2:]], 1).masked_fill(alone, 0.0)
    return grad.masked_fill(alone[:, 0], 0.0).to(accumulate_dtype(like)), pairs.contiguous()


def _gradients(
    how: Contrast,
    query: Tensor,
    query_ids: Tensor | None,
    own: _Block,
    upstream: _Upstream,
    *need: bool,
) -> tuple[Tensor | None, ...]:
    """Of queries, keys, scale and bias: those of keys are collected on their way."""
    need_query, need_key, need_scale, need_bias = need
    per_key = own.scale.dim() == 1
    accumulate = accumulate_dtype(query)
    g, stats = upstream.of_rows(query)
    h, stats_col = upstream.of_columns(query)
    grad_query = torch.zeros(query.shape, dtype=accumulate, device=query.device)
    grad_scale = torch.zeros(() if per_key else own.scale.shape, dtype=torch.float64)
    grad_scale = grad_scale.to(query.device)
    wanted = [need_key, need_scale and per_key, need_bias]

    def visit(_: int, tensors: Tensors) -> Tensors:
        nonlocal grad_query, grad_scale
        block = own.unpack(tensors)
        h_block, stats_block = tensors[-2:] if how.symmetric else (h, stats_col)
        if len(query) == 0 or len(block.key) == 0:
            return [x for x, w in zip(_zeros(block, accumulate), wanted, strict=True) if w]
        found = torch.ops.sslkern.info_nce_bwd(
            *(g, h_block, query, block.key, None, block.scale, block.bias, query_ids, block.ids),
            *(stats, stats_block, how.normalize, how.symmetric, how.label_smoothing, *need),
        )
        if need_query:
            grad_query += found[0]
        if need_scale and not per_key:
            grad_scale += found[2]
        of_keys = (found[1].to(accumulate), found[2], found[3])
        return [x for x, w in zip(of_keys, wanted, strict=True) if w]

    travels = [*own.pack(), *((h, stats_col) if how.symmetric else ())]
    collected = iter(visit_blocks(how.processes, how.keys, travels, visit, add))
    grad_key = next(collected).to(own.key.dtype) if need_key else None
    if need_scale and per_key:
        grad_scale = next(collected)
    return (
        grad_query.to(query.dtype) if need_query else None,
        grad_key,
        grad_scale.to(own.scale.dtype) if need_scale else None,
        next(collected).to(own.bias.dtype) if need_bias and own.bias is not None else None,
    )


def _zeros(block: _Block, accumulate: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a block that meets no query."""
    bias = block.scale if block.bias is None else block.bias
    return torch.zeros_like(block.key, dtype=accumulate), block.scale * 0, bias * 0


def _gradients_of_pairs(
    how: Contrast,
    rows: Tensor,
    scale: Tensor,
    ids: Tensor | None,
    upstream: tuple[Tensor, Tensor],
    need_rows: bool,
    need_scale: bool,
) -> tuple[Tensor | None, ...]:
    """Of rows among themselves: a pair's gradient is one number for both, and so are its rows'."""
    g, stats = _readable(*upstream, rows)
    grad_rows = torch.zeros(rows.shape, dtype=accumulate_dtype(rows), device=rows.device)
    grad_scale = torch.zeros(scale.shape, dtype=torch.float64, device=rows.device)
    own = _Block(rows, scale, None, ids)

    def receive(mine: slice, found: Tensors) -> None:
        grad_rows[mine] += found[0]

    def visit(rank: int, mine: slice, tensors: Tensors) -> Tensors:
        nonlocal grad_scale
        itself = rank == how.processes.rank
        block, (g_block, stats_block) = own.unpack(tensors), tensors[-2:]
        query, others = rows[mine], need_rows and not itself
        if len(query) == 0 or len(block.key) == 0:
            return [torch.zeros_like(block.key, dtype=grad_rows.dtype)] if others else []
        found = torch.ops.sslkern.info_nce_bwd(
            *(g[mine], g_block, query, block.key, None, scale, None),
            *(None if ids is None else ids[mine], block.ids, stats[mine], stats_block),
            *(how.normalize, True, 0.0, need_rows, others, need_scale, False),
        )
        if need_rows:
            receive(mine, found[:1])
        if need_scale:
            # Among themselves this rank's rows meet twice.
            grad_scale = grad_scale + (found[2] / 2 if itself else found[2])
        return [found[1].to(grad_rows.dtype)] if others else []

    visit_pairs(how.processes, how.keys, [*own.pack(), g, stats], visit, receive)
    return (
        grad_rows.to(rows.dtype) if need_rows else None,
        None,
        grad_scale.to(scale.dtype) if need_scale else None,
        None,
    )
