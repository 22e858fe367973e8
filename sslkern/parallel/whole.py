"""Losses that every rank computes of all rows, which are gathered with a gradient.

Work is not divided: these are cheap beside an encoder, or have no parts that ranks could take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_views, stack_views
from sslkern.parallel.agreement import which_require_grad
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.processes import Processes, Sharing, are_many, meet


def least_rows(sharing: Sharing) -> int:
    """Of a batch, two; of a rank's part of one, none."""
    return 0 if are_many(sharing) else 2


def check_total(processes: Processes, name: str, least: int = 2) -> None:
    """Reject a batch of fewer rows on all ranks together."""
    rows = processes.total(name)
    if rows < least:
        refuse(processes.op, name, f"of at least {least} rows on all ranks together", rows)


def all_views(
    op: str,
    sharing: Sharing,
    views: Tensor | Sequence[Tensor],
    options: Mapping[str, object],
    check_options: Callable[[], None],
) -> Tensor:
    """The views of all ranks as one tensor (N, V, D) in the working dtype."""

    def check_arguments() -> None:
        check_options()
        check_views(views, op, least_rows(sharing))

    shards, described = _described(views)
    processes = meet(op, sharing, shards, {**described, **options}, check_arguments)
    z = stack_views(views)
    if processes is None:
        return z
    (name,) = shards
    check_total(processes, name)
    return gather_rows(processes, name, z.flatten(1)).view(-1, *z.shape[1:])


def _described(views: Any) -> tuple[dict[str, Any], dict[str, object]]:
    """The shard that stands for all views, which are like it, and what else must be the same."""
    if isinstance(views, Tensor):
        whole = views.dim() == 3 and views.layout == torch.strided
        rows = views.flatten(1) if whole else views
        return {"views": rows}, {"the shape of a sample of views": tuple(views.shape[1:])}
    if not isinstance(views, Sequence) or len(views) == 0:
        return {"views": views}, {}
    return {"views[0]": views[0]}, {
        "the number of views": len(views),
        "which views require grad": which_require_grad(views),
    }
