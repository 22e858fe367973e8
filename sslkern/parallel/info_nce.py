"""InfoNCE over the queries and keys of all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype, check_floating, check_same_device, refuse
from sslkern.parallel.pairs import dot_of_pairs
from sslkern.parallel.processes import Processes, promoted
from sslkern.parallel.route import Route
from sslkern.parallel.softmax import Contrast, LogSumExps, log_sum_exp, over_negatives


class Columns(NamedTuple):
    """Columns with what belongs to them: a rank's keys, all keys, or a bank that all ranks have."""

    rows: Tensor
    scale: Tensor  # a scalar for all, or one each
    bias: Tensor | None
    ids: Tensor | None

    def split(self, first: int) -> tuple[Columns, Columns | None]:
        """The first ones, and the others if there are any."""
        if len(self.rows) == first:
            return self, None
        sizes = [first, len(self.rows) - first]
        scale = (self.scale,) * 2 if self.scale.dim() == 0 else torch.split(self.scale, sizes)
        rest = [(x, x) if x is None else torch.split(x, sizes) for x in (self.bias, self.ids)]
        rows = torch.split(self.rows, sizes)
        keys, bank = zip(rows, scale, *rest, strict=True)
        return Columns(*keys), Columns(*bank)


def check_here(
    op: str,
    like: Tensor,
    count: int,
    of_columns: Mapping[str, object],
    of_rows: Mapping[str, object],
) -> None:
    """What the operator would see on this rank alone, when the others are waiting already.

    Args:
        op: What errors call the loss.
        like: This rank's queries (N, D).
        count: Of its columns.
        of_columns: What belongs to each; a temperature may also be one number.
        of_rows: What belongs to each query.
    """
    rows = len(like)
    expected = (
        (of_columns, f"(columns,) = ({count},)", count),
        (of_rows, f"(N,) = ({rows},)", rows),
    )
    for tensors, shape, length in expected:
        for name, x in tensors.items():
            if not isinstance(x, Tensor):
                continue
            one = name == "temperature" and x.numel() == 1
            if not one and x.shape != (length,):
                refuse(op, name, f"of shape {shape}", f"shape {tuple(x.shape)}")
            check_same_device(x, name, like, "query", op)
            _check_kind(op, name, x)


def _check_kind(op: str, name: str, x: Tensor) -> None:
    if name in ("temperature", "bias"):
        check_floating(x, name, op)
    elif x.dtype != torch.int64:
        raise TypeError(f"sslkern::{op}: expected {name} to be of dtype torch.int64, got {x.dtype}")


def described(value: object) -> object:
    """For the other ranks: a vector may have one element, where a rank has one column."""
    if not isinstance(value, Tensor) or value.dim() != 1:
        return value
    grad = ", requires grad" if value.requires_grad and torch.is_grad_enabled() else ""
    return f"a vector, {value.dtype}{grad}"


def temperature_of_ranks(processes: Processes, temperature: Tensor, columns: int) -> Tensor:
    """A scalar for all columns, or a vector with one for each, also where a rank has one column."""
    if temperature.dim() != 1:
        return temperature.reshape(())
    one = temperature.numel() == 1
    value = temperature.detach().double().reshape(-1)[0] if one else 0.0
    own = torch.zeros(4, dtype=torch.float64, device=temperature.device)
    other = own.new_tensor(float(temperature.numel() != columns))
    own += torch.stack([own.new_tensor(float(not one)), other, own[0] + value, own[0] - value])
    each, other_number, largest, smallest = processes.all_reduce(own, largest=True).tolist()
    if each and other_number:
        got = "another number on some rank"
        refuse(processes.op, "temperature", "of shape (columns,) on all ranks or on none", got)
    if each:
        return temperature.reshape(-1)
    if largest != -smallest:
        refuse(
            processes.op, "temperature", "the same on all ranks", f"{largest:g} and {-smallest:g}"
        )
    return temperature.reshape(())


class Options(NamedTuple):
    """What the losses of a batch have in common."""

    definition: str
    normalize: bool
    symmetric: bool
    label_smoothing: float


def rows_with_own_keys(
    processes: Processes, options: Options, query: Tensor, columns: Columns, ids: Tensor | None
) -> Tensor:
    """Losses where the positive of a row is the key of its own, on its own rank."""
    query, rows = promoted(query, columns.rows)
    keys, bank = columns._replace(rows=rows).split(len(query))
    if ids is None or keys.ids is None:
        own = processes.indices("query", query.device)
        every, positives = keys._replace(ids=own), keys._replace(ids=None)
        return _rows(processes, options, query, every, positives, bank, own, ids)
    return _rows(processes, options, query, keys, keys, bank, ids, ids)


def rows_with_targets(
    processes: Processes,
    options: Options,
    query: Tensor,
    columns: Columns,
    target: Tensor,
    ids: Tensor | None,
) -> Tensor:
    """Losses where the positive of a row is any column of all ranks, which comes to the row."""
    query, rows = promoted(query, columns.rows)
    keys, bank = columns._replace(rows=rows).split(processes.rows["key"][processes.rank])
    total = processes.total("key")
    check_targets(processes, target, total + (0 if bank is None else len(bank.rows)))
    if ids is None or keys.ids is None:
        # Each column is of its own identity, and each row of that of its target.
        ids, keys = target, keys._replace(ids=processes.indices("key", query.device))
        if bank is not None:
            own = torch.arange(total, total + len(bank.rows), device=query.device)
            bank = bank._replace(ids=own)
    positive = _targeted(processes, keys, bank, target, total)
    return _rows(processes, options, query, keys, positive, bank, ids, ids)


def check_targets(processes: Processes, target: Tensor, columns: int) -> None:
    """Reject a target out of range, on all ranks."""
    ends = target.new_zeros(2)
    if len(target) > 0:
        low, high = target.aminmax()
        ends = torch.stack([-low, high])
    low, high = processes.all_reduce(ends, largest=True).tolist()
    for value in (-low, high):
        if not 0 <= value < columns:
            wanted = f"of values in [0, {columns}), the columns of all ranks"
            refuse(processes.op, "target", wanted, value)


def _targeted(
    processes: Processes, keys: Columns, bank: Columns | None, target: Tensor, total: int
) -> Columns:
    """The column of each target, of any rank's keys or of the bank."""
    in_bank = target >= total
    # A row whose target is in the bank asks for the first key, which it does not look at.
    route = Route(processes, "key", target.masked_fill(in_bank, 0))
    place = (target - total).clamp(min=0)

    def of(key: Tensor | None, other: Tensor | None) -> Tensor | None:
        if key is None:
            return None
        found = route.take(key)
        if other is None:
            return found
        return torch.where(in_bank[:, None] if key.dim() == 2 else in_bank, other[place], found)

    rows, scale, bias, ids = (None,) * 4 if bank is None else bank
    return Columns(
        of(keys.rows, rows),  # type: ignore[arg-type]
        keys.scale if keys.scale.dim() == 0 else of(keys.scale, scale),  # type: ignore[arg-type]
        of(keys.bias, bias),
        of(keys.ids, ids),
    )


def _rows(
    processes: Processes,
    options: Options,
    query: Tensor,
    keys: Columns,
    positives: Columns,
    bank: Columns | None,
    ids: Tensor,
    ids_of_bank: Tensor | None,
) -> Tensor:
    """Losses of rows with the given positives, against the keys of all ranks and the bank.

    A positive is left out of the log-sum-exp unless its id says otherwise, and joins it at the end:
    exact where it dominates.
    """
    symmetric, smoothing = options.symmetric, options.label_smoothing
    positive = _positive(processes, options, query, positives)
    joined = torch.zeros_like(ids, dtype=torch.bool)
    if positives.ids is not None:
        joined = ids != positives.ids

    def directions(e: float) -> LogSumExps:
        how = Contrast(
            *(processes, options.definition, "key", options.normalize, symmetric), label_smoothing=e
        )
        return log_sum_exp(how, query, keys.rows, keys.scale, keys.bias, ids, keys.ids)

    found = directions(0.0)
    smoothed = directions(1.0) if smoothing > 0 else found
    losses = []
    for (lse, count), (less_mean, _) in list(zip(found, smoothed, strict=True))[: 1 + symmetric]:
        logits = torch.where(count > 0, count * (lse - less_mean), 0.0)
        if bank is not None and len(query) > 0:
            other = _of_bank(query, bank, ids_of_bank, options.normalize, smoothing)
            lse = torch.logaddexp(lse, other[0])
            logits, count = logits + other[1], count + other[2]
        loss = torch.where(joined, lse - positive, over_negatives(lse, positive))
        if smoothing > 0:
            more = (~joined).to(count.dtype)
            mean = (logits + more * positive) / (count + more)
            loss = loss + smoothing * (positive - mean)
        losses.append(loss)
    total = losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2
    return total.to(accumulate_dtype(query))


def _positive(processes: Processes, options: Options, query: Tensor, keys: Columns) -> Tensor:
    names = processes.op, options.definition
    cosine = dot_of_pairs(*names, query, keys.rows, options.normalize)
    logits = cosine * keys.scale.double()
    return logits if keys.bias is None else logits + keys.bias.double()


def _of_bank(
    query: Tensor, bank: Columns, ids: Tensor | None, normalize: bool, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps over a bank that is here, sums of logits if they are needed, their numbers."""
    ids = ids if bank.ids is not None else None
    arguments = (query, bank.rows, None, bank.scale, bank.bias, ids, bank.ids, normalize, False)
    lse, _, stats, *_ = torch.ops.sslkern.info_nce_fwd(*arguments, 0.0, False)
    lse, count = lse.double(), stats[:, 1]
    logits = torch.zeros_like(lse)
    if label_smoothing > 0:
        less_mean, *_ = torch.ops.sslkern.info_nce_fwd(*arguments, 1.0, False)
        logits = torch.where(count > 0, count * (lse - less_mean), 0.0)
    return lse, logits, count
