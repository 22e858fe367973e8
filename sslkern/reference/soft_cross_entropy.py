"""Cross entropy against soft targets, the definition in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.reference._common import in_dtype_of, reduce_loss, to_working_dtype


def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    *,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor | None = None,
    center: Tensor | None = None,
    from_probabilities: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of each row against the teacher's; see `sslkern.soft_cross_entropy`."""
    q = to_working_dtype(teacher)
    if not from_probabilities:
        if center is not None:
            q = q - center.to(q.dtype)
        temperature = 0.04 if teacher_temperature is None else teacher_temperature
        q = (q / in_dtype_of(q, temperature)).softmax(1)
    log_p = _scaled(to_working_dtype(student), student_temperature).log_softmax(1)
    # A class that has no part in the target has none in the loss, also where log p is -inf.
    loss = -torch.where(q == 0, torch.zeros_like(q), q * log_p).sum(1)
    return reduce_loss(loss, weight, reduction)


def _scaled(s: Tensor, temperature: float | Tensor) -> Tensor:
    """Scores divided by the temperature, which has no gradient from those that are -inf."""
    masked = s == float("-inf")
    scaled = s.masked_fill(masked, 0) / in_dtype_of(s, temperature)
    return scaled.masked_fill(masked, float("-inf"))
