"""ReSSL's loss as a module."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.ops._common import check_positive_number
from sslkern.ops.ressl import ressl_loss


class ReSSLLoss(nn.Module):
    """`sslkern.ressl_loss` with its temperatures held.

    Args:
        student_temperature: Positive number.
        teacher_temperature: Positive number.

    Raises:
        ValueError: If a temperature is not positive and finite.

    Example:
        >>> import torch, sslkern
        >>> from sslkern.methods import Queue
        >>> loss_fn, queue = sslkern.losses.ReSSLLoss(), Queue(size=16, dim=4)
        >>> query, key = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4)
        >>> loss = loss_fn(query, key, queue.rows)
        >>> queue.enqueue(torch.nn.functional.normalize(key))
        >>> loss.backward()

    Equals: `sslkern.reference.ressl_loss`.

    Source: Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", 2021,
    https://arxiv.org/abs/2107.09282
    """

    def __init__(self, student_temperature: float = 0.1, teacher_temperature: float = 0.04) -> None:
        super().__init__()
        check_positive_number(student_temperature, "student_temperature", "ressl")
        check_positive_number(teacher_temperature, "teacher_temperature", "ressl")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    def forward(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Mean loss over the rows of ``query`` and ``key``, both (N, D), and ``queue`` (K, D)."""
        return ressl_loss(
            query,
            key,
            queue,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )

    def extra_repr(self) -> str:
        """The temperatures, for ``print(module)``."""
        return (
            f"student_temperature={self.student_temperature}, "
            f"teacher_temperature={self.teacher_temperature}"
        )
