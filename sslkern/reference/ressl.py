"""ReSSL's loss, the definition in eager PyTorch."""

from __future__ import annotations

from torch import Tensor

from sslkern.reference._common import in_dtype_of, normalize_rows, reduce_loss, to_working_dtype


def ressl_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of two softmaxes over the rows of a queue; see `sslkern.ressl_loss`."""
    q, k, u = (to_working_dtype(z) for z in (query, key, queue))
    if normalize:
        q, k, u = normalize_rows(q), normalize_rows(k), normalize_rows(u)
    target = (k @ u.T / in_dtype_of(k, teacher_temperature)).softmax(1)
    log_p = (q @ u.T / in_dtype_of(q, student_temperature)).log_softmax(1)
    return reduce_loss(-(target * log_p).sum(1), weight, reduction)
