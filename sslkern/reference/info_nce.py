"""InfoNCE and the loss of CLIP, the definitions in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.reference._common import normalize_rows, reduce_loss, to_working_dtype


def info_nce_loss(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    in_batch: bool | None = None,
    target: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    bias: Tensor | None = None,
    symmetric: bool = False,
    normalize: bool = True,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of each query with its key among all columns; see `sslkern.info_nce_loss`."""
    q, columns = _rows(query, normalize), _rows(key, normalize)
    bank_alone = negatives is not None and not in_batch
    if negatives is None:
        s = q @ columns.T
    elif bank_alone:
        own = (q * columns).sum(1, keepdim=True)
        s = torch.cat([own, q @ _rows(negatives, normalize).T], dim=1)
    else:
        s = q @ torch.cat([columns, _rows(negatives, normalize)]).T
    s = s / _like(temperature, s)
    if bias is not None:
        s = s + _like(bias, s)
    if target is None:
        diagonal = torch.arange(len(s), device=s.device)
        target = torch.zeros_like(diagonal) if bank_alone else diagonal
    excluded = _excluded(s, target, ids, key_ids if key_ids is not None else ids)
    loss = _cross_entropy(s, target, excluded, label_smoothing)
    if symmetric:
        mirrored = None if excluded is None else excluded.T
        loss = (loss + _cross_entropy(s.T, target, mirrored, label_smoothing)) / 2
    return reduce_loss(loss, weight, reduction)


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Mean of the cross entropies over rows and columns; see `sslkern.clip_loss`."""
    image, text = to_working_dtype(image_features), to_working_dtype(text_features)
    s = _like(logit_scale, image) * image @ text.T
    if logit_bias is not None:
        s = s + _like(logit_bias, s)
    target = torch.arange(len(s), device=s.device)
    image_loss, text_loss = (F.cross_entropy(x, target, reduction="none") for x in (s, s.T))
    return reduce_loss((image_loss + text_loss) / 2, None, reduction)


def contrastive_accuracy(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    topk: Sequence[int] = (1, 5),
    in_batch: bool | None = None,
    target: Tensor | None = None,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Share of the queries whose positive is in the top k; see `sslkern.contrastive_accuracy`."""
    q, columns = _rows(query, normalize), _rows(key, normalize)
    bank_alone = negatives is not None and not in_batch
    own = (q * columns).sum(1, keepdim=True) if bank_alone else None
    if negatives is not None:
        bank = _rows(negatives, normalize)
        columns = bank if bank_alone else torch.cat([columns, bank])
    s = q @ columns.T
    s = s if own is None else torch.cat([own, s], dim=1)
    if target is None:
        diagonal = torch.arange(len(s), device=s.device)
        target = torch.zeros_like(diagonal) if bank_alone else diagonal
    larger = ~(s <= s.gather(1, target[:, None]))
    excluded = _excluded(s, target, ids, key_ids if key_ids is not None else ids)
    rank = (larger if excluded is None else larger & ~excluded).sum(1)
    return torch.stack([(rank < k).double().mean() for k in topk])


def _rows(z: Tensor, normalize: bool) -> Tensor:
    """Rows in the working precision, of unit norm if asked for."""
    z = to_working_dtype(z)
    return normalize_rows(z) if normalize else z


def _like(value: float | Tensor, z: Tensor) -> float | Tensor:
    """A parameter of the similarities, a number or one per column, in the dtype of ``z``."""
    return value.to(z.dtype) if isinstance(value, Tensor) else value


def _excluded(
    s: Tensor, target: Tensor, ids: Tensor | None, key_ids: Tensor | None
) -> Tensor | None:
    """Where a column has the id of the row without being its target.

    With a bank alone the first column of ``s`` is the target and has no id.
    """
    if ids is None or key_ids is None:
        return None
    same = ids[:, None] == key_ids[None, :]
    same = F.pad(same, (s.shape[1] - same.shape[1], 0))
    return same.scatter(1, target[:, None], False)


def _cross_entropy(
    s: Tensor, target: Tensor, excluded: Tensor | None, label_smoothing: float
) -> Tensor:
    """Per row: the cross entropy over the columns that are not excluded."""
    if excluded is None:
        return F.cross_entropy(s, target, reduction="none", label_smoothing=label_smoothing)
    # Scale first, mask second: the other order multiplies -inf by 0 in the temperature gradient.
    lse = s.masked_fill(excluded, float("-inf")).logsumexp(1)
    loss = lse - (1 - label_smoothing) * s.gather(1, target[:, None]).squeeze(1)
    if label_smoothing:
        mean = s.masked_fill(excluded, 0).sum(1) / (~excluded).sum(1)
        loss = loss - label_smoothing * mean
    return loss
