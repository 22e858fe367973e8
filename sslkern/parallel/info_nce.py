"""InfoNCE over the queries and keys of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sslkern.ops._common import accumulate_dtype, refuse
from sslkern.ops._pairs import dot
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.processes import Processes, promoted
from sslkern.parallel.rows import no_rows
from sslkern.parallel.softmax import Contrast, LogSumExps, log_sum_exp, over_negatives


class Columns(NamedTuple):
    """Columns with what belongs to them: a rank's keys, all keys, or a bank that all ranks have."""

    rows: Tensor
    scale: Tensor  # of all, or one each
    bias: Tensor | None
    ids: Tensor | None

    def split(self, first: int) -> tuple[Columns, Columns | None]:
        """The first ones, and the others if there are any."""
        if len(self.rows) == first:
            return self, None
        sizes = [first, len(self.rows) - first]
        scale = (self.scale,) * 2 if self.scale.numel() == 1 else torch.split(self.scale, sizes)
        rest = [(x, x) if x is None else torch.split(x, sizes) for x in (self.bias, self.ids)]
        rows = torch.split(self.rows, sizes)
        keys, bank = zip(rows, scale, *rest, strict=True)
        return Columns(*keys), Columns(*bank)

    def gathered(self, processes: Processes) -> Columns:
        """Those of all ranks."""

        def of_all(x: Tensor | None) -> Tensor | None:
            return None if x is None else gather_rows(processes, "key", x)

        scale = self.scale if self.scale.numel() == 1 else of_all(self.scale)
        return Columns(of_all(self.rows), scale, of_all(self.bias), of_all(self.ids))  # type: ignore

    def followed_by(self, other: Columns | None) -> Columns:
        """Both."""
        if other is None:
            return self
        one = self.scale.numel() == 1
        return Columns(
            torch.cat([self.rows, other.rows]),
            self.scale if one else torch.cat([self.scale, other.scale]),
            _joined(self.bias, other.bias),
            _joined(self.ids, other.ids),
        )


def _joined(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return None if x is None or y is None else torch.cat([x, y])


def check_lengths(
    op: str, count: int, of_columns: Mapping[str, object], rows: int, of_rows: Mapping[str, object]
) -> None:
    """Of what belongs to this rank's columns or rows, before anything is exchanged.

    A temperature may also be one number.
    """
    expected = (
        (of_columns, f"(columns,) = ({count},)", count),
        (of_rows, f"(N,) = ({rows},)", rows),
    )
    for tensors, shape, length in expected:
        for name, x in tensors.items():
            one = name == "temperature" and (not isinstance(x, Tensor) or x.numel() == 1)
            if isinstance(x, Tensor) and not one and x.shape != (length,):
                refuse(op, name, f"of shape {shape}", f"shape {tuple(x.shape)}")


def rows_with_targets(
    processes: Processes,
    query: Tensor,
    columns: Columns,
    softmax_rows: Callable[[Columns], Tensor],
) -> Tensor:
    """Losses where the positive of a row is any column of all ranks: all columns are gathered."""
    if processes.strategy == "ring":
        refuse(processes.op, "strategy", "'gather' with a target", "'ring'")
    keys, bank = columns.split(processes.rows["key"][processes.rank])
    every = keys.gathered(processes).followed_by(bank)
    # A rank without rows waits, too, for the gradient of what was gathered.
    return softmax_rows(every) if len(query) > 0 else no_rows(query, *every)


def rows_with_own_keys(
    processes: Processes,
    definition: str,
    query: Tensor,
    columns: Columns,
    ids: Tensor | None,
    *,
    normalize: bool,
    symmetric: bool,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Losses where the positive of a row is the key of its own, on its own rank.

    It is left out of the log-sum-exp unless its id says otherwise, and joins it at the end: exact
    where it dominates.
    """
    given = ids
    query, rows = promoted(query, columns.rows)
    columns = columns._replace(rows=rows)
    keys, bank = columns.split(len(query))
    positive = _positive(query, keys, normalize)
    if ids is None or keys.ids is None:
        ids = processes.indices("query", query.device)
        keys, joined = keys._replace(ids=ids), torch.zeros_like(ids, dtype=torch.bool)
    else:
        joined = ids != keys.ids

    def directions(e: float) -> LogSumExps:
        how = Contrast(processes, definition, "key", normalize, symmetric, label_smoothing=e)
        return log_sum_exp(how, query, keys.rows, keys.scale, keys.bias, ids, keys.ids)

    found = directions(0.0)
    smoothed = directions(1.0) if label_smoothing > 0 else found
    losses = []
    for (lse, count), (less_mean, _) in list(zip(found, smoothed, strict=True))[: 1 + symmetric]:
        logits = torch.where(count > 0, count * (lse - less_mean), 0.0)
        if bank is not None and len(query) > 0:
            other = _of_bank(query, bank, given, normalize, label_smoothing)
            lse = torch.logaddexp(lse, other[0])
            logits, count = logits + other[1], count + other[2]
        loss = torch.where(joined, lse - positive, over_negatives(lse, positive))
        if label_smoothing > 0:
            more = (~joined).to(count.dtype)
            mean = (logits + more * positive) / (count + more)
            loss = loss + label_smoothing * (positive - mean)
        losses.append(loss)
    total = losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2
    return total.to(accumulate_dtype(query))


def _positive(query: Tensor, keys: Columns, normalize: bool) -> Tensor:
    scale = keys.scale.double()
    logits = dot(query, keys.rows, normalize) * (scale if scale.numel() != 1 else scale.reshape(()))
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
