"""ReSSL's loss as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.ressl import ressl_loss


class ReSSLLoss(SharedLoss):
    """`sslkern.ressl_loss` with its temperatures held.

    Args:
        student_temperature: Positive number.
        teacher_temperature: Positive number.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

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

    def __init__(
        self,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
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
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The temperatures, for ``print(module)``."""
        return (
            f"student_temperature={self.student_temperature}, "
            f"teacher_temperature={self.teacher_temperature}"
        )
