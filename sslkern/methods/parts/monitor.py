"""What to log of the embeddings while a method trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkern.metrics import alignment, contrastive_accuracy, rankme
from sslkern.ops._embeddings import check_alike, check_rows
from sslkern.ops.supcon import uniformity
from sslkern.reference._common import normalize_rows, to_working_dtype

_OP = "collapse_metrics"


@torch.no_grad()
def collapse_metrics(z: Tensor, positive: Tensor | None = None) -> dict[str, float]:
    r"""Numbers that tell whether the embeddings of a batch collapse.

    ``"std"`` is the standard deviation of each channel over the batch (that of the population, its
    squares divided by N) of the rows at unit norm, averaged over the channels and multiplied by
    :math:`\sqrt{D}`. Then 1, its maximum, is healthy: mean zero and the same spread in every
    channel. It is 0 where all rows point the same way. SimSiam plots it without the factor.

    Args:
        z: Embeddings (N, D) with N > 1, float64, float32, bfloat16 or float16.
        positive: Embeddings of other views of the same samples, of the same shape and dtype.

    Returns:
        ``"std"`` and ``"rankme"`` (`sslkern.rankme`); with ``positive`` also ``"alignment"`` of the
        pairs (`sslkern.alignment`), ``"uniformity"`` of ``z`` (`sslkern.uniformity`) and
        ``"accuracy"``, how often the positive of a row is the most similar to it of all rows of
        ``positive`` (`sslkern.contrastive_accuracy`).

    Raises:
        ValueError: For a wrong shape or device or, on the CPU, values that are not finite.
        TypeError: For a wrong dtype.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.monitor import collapse_metrics
        >>> z = torch.cat([torch.eye(4), -torch.eye(4)])
        >>> {name: round(value, 3) for name, value in collapse_metrics(z).items()}
        {'std': 1.0, 'rankme': 4.0}
        >>> {name: round(value, 3) for name, value in collapse_metrics(torch.ones(8, 4)).items()}
        {'std': 0.0, 'rankme': 1.0}

    Source: Chen and He, "Exploring Simple Siamese Representation Learning", 2020,
    https://arxiv.org/abs/2011.10566, for ``"std"``; the others name theirs
    """
    check_rows(z, "z", _OP)
    metrics = {"std": _spread(z), "rankme": float(rankme(z))}
    if positive is not None:
        check_alike(positive, "positive", z, "z", _OP)
        metrics["alignment"] = float(alignment(z, positive))
        metrics["uniformity"] = float(uniformity(z))
        metrics["accuracy"] = float(contrastive_accuracy(z, positive, topk=(1,)))
    return metrics


def _spread(z: Tensor) -> float:
    rows = normalize_rows(to_working_dtype(z))
    return float(rows.std(0, correction=0).mean()) * math.sqrt(z.shape[1])
