"""What a teacher's scores become: targets, centered and sharpened."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.parts.center import Center
from sslkern.methods.parts.schedules import check_share, linear
from sslkern.ops._common import check_positive_number
from sslkern.ops.soft_cross_entropy import soft_cross_entropy


class TeacherTargets(nn.Module):
    r"""Cross entropy of a student against its teacher's centered and sharpened scores.

    .. math:: \ell = -\mathrm{softmax}\bigl((t - c) / \tau_t\bigr) \cdot
              \log \mathrm{softmax}(s / \tau_s)

    The center c keeps one output from winning everywhere, the low teacher temperature
    :math:`\tau_t` keeps all from being equal. It changes along a line in the first part of the
    training. Center and temperature are part of the state.

    Args:
        dim: Number K of scores.
        op: Name of the method.
        student_temperature: :math:`\tau_s`.
        teacher_temperature: :math:`\tau_t`, after the warm-up.
        first_temperature: At the start; ``teacher_temperature`` if not given.
        warmup: Share of the training in which the temperature changes.
        center_momentum: The share of the old center, from 0 to 1.

    Raises:
        ValueError: If a temperature is not positive, or a share outside [0, 1].

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294
    """

    temperature: Tensor
    """The teacher's as it is now, a 0-d tensor."""

    def __init__(
        self,
        dim: int,
        op: str,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_temperature: float | None = None,
        warmup: float = 0.3,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        first = teacher_temperature if first_temperature is None else first_temperature
        for name, value in (
            ("student_temperature", student_temperature),
            ("teacher_temperature", teacher_temperature),
            ("first_temperature", first),
        ):
            check_positive_number(value, name, op)
        check_share(warmup, "warmup", op)
        check_share(center_momentum, "center_momentum", op)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.first_temperature = first
        self.warmup = warmup
        self.center = Center(dim, center_momentum)
        self.register_buffer("temperature", torch.tensor(first))

    def forward(self, student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross entropy of the scores (N, K) of the same samples.

        Returns:
            Scalar, or (N,) for the reduction ``"none"``.
        """
        return soft_cross_entropy(
            student,
            teacher.to(student.dtype),
            student_temperature=self.student_temperature,
            teacher_temperature=self.temperature,
            center=self.center.value,
            reduction=reduction,
        )

    def update(self, progress: float) -> None:
        """Set the teacher's temperature of this share of the training."""
        done = min(1.0, progress / self.warmup) if self.warmup else 1.0
        self.temperature.fill_(linear(self.first_temperature, self.teacher_temperature, done))


def across(targets: TeacherTargets, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    """Mean over the pairs of a taught view and another one; view i of both is the same crop."""
    losses = [
        targets(student, teacher)
        for i, teacher in enumerate(teachers)
        for j, student in enumerate(students)
        if i != j
    ]
    return torch.stack(losses).mean()
