"""Soft cross entropy as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.soft_cross_entropy import TEACHER_TEMPERATURE, soft_cross_entropy


class SoftCrossEntropyLoss(SharedLoss):
    """`sslkern.soft_cross_entropy` with its temperatures held.

    The temperatures are plain attributes: a schedule may assign to them.

    Args:
        student_temperature: Positive number.
        teacher_temperature: Positive number, 0.04 by default; none with ``from_probabilities``.
        from_probabilities: Whether the teacher gives probabilities, not scores.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a temperature is not positive and finite, or the teacher has one with
            ``from_probabilities``.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.SoftCrossEntropyLoss(teacher_temperature=0.07)
        >>> student = torch.tensor([[0.2, 0.1, 0.0]])
        >>> print(f"{loss(student, torch.eye(3)[:1]).item():.6f}")
        0.407608

    Equals: `sslkern.reference.soft_cross_entropy`.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294
    """

    def __init__(
        self,
        student_temperature: float = 0.1,
        teacher_temperature: float | None = None,
        from_probabilities: bool = False,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        op = "soft_cross_entropy"
        check_positive_number(student_temperature, "student_temperature", op)
        if from_probabilities and teacher_temperature is not None:
            raise ValueError(
                f"sslkern::{op}: expected teacher_temperature to be None with "
                f"from_probabilities, got {teacher_temperature}"
            )
        if teacher_temperature is None and not from_probabilities:
            teacher_temperature = TEACHER_TEMPERATURE
        if teacher_temperature is not None:
            check_positive_number(teacher_temperature, "teacher_temperature", op)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.from_probabilities = from_probabilities

    def forward(self, student: Tensor, teacher: Tensor, center: Tensor | None = None) -> Tensor:
        """Mean loss over the rows of ``student`` against those of ``teacher``, both (N, K).

        The teacher's scores are taken relative to ``center``, (K,) or (1, K).
        """
        return soft_cross_entropy(
            student,
            teacher,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            center=center,
            from_probabilities=self.from_probabilities,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        if self.from_probabilities:
            return f"student_temperature={self.student_temperature}, from_probabilities=True"
        return (
            f"student_temperature={self.student_temperature}, "
            f"teacher_temperature={self.teacher_temperature}"
        )
