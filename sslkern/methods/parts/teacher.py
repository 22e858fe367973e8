"""The momentum teacher: an exponential moving average of a student."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslkern.ops._common import check_number, refuse

Schedule = Literal["constant", "cosine"]
Buffers = Literal["own", "copy", "average"]
SCHEDULES, BUFFERS = ("constant", "cosine"), ("own", "copy", "average")


class Teacher(nn.Module):
    r"""A copy of a student that follows it slowly and takes no gradient.

    .. math:: \theta_t \leftarrow m\,\theta_t + (1 - m)\,\theta_s

    With the schedule ``"constant"`` (MoCo) m is ``momentum``; with ``"cosine"`` (BYOL, DINO) it
    rises to 1 as :math:`1 - (1 - m_0)(\cos(\pi p) + 1)/2` over the progress p of the training.
    The forward pass runs without gradient, in the mode (training or evaluation) of the teacher.
    Weights and buffers are part of the state.

    Args:
        student: What is copied, now; it is not kept.
        momentum: m, or m at the start, from 0 to 1.
        schedule: ``"constant"`` or ``"cosine"``.
        buffers: Such as the running statistics of batch norms: ``"own"``, the teacher's passes
            make its own (MoCo); ``"copy"`` takes the student's at each update; ``"average"``
            averages floating ones as weights and copies the others.

    Raises:
        ValueError: If the momentum is outside [0, 1], or a schedule or treatment is unknown.

    Example:
        >>> import torch
        >>> from sslkern.methods import Teacher
        >>> student = torch.nn.Linear(1, 1, bias=False)
        >>> teacher = Teacher(student, momentum=0.75)
        >>> before = student.weight.item()
        >>> _ = torch.nn.init.constant_(student.weight, before + 4.0)
        >>> teacher.update(student)
        >>> round(teacher.module.weight.item() - before, 4)
        1.0

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
    https://arxiv.org/abs/1911.05722; Grill et al., "Bootstrap your own latent", 2020,
    https://arxiv.org/abs/2006.07733
    """

    def __init__(
        self,
        student: nn.Module,
        momentum: float = 0.996,
        schedule: Schedule = "constant",
        *,
        buffers: Buffers = "own",
    ) -> None:
        super().__init__()
        check_momentum(momentum, "momentum", "Teacher")
        if schedule not in SCHEDULES:
            refuse("Teacher", "schedule", " or ".join(map(repr, SCHEDULES)), repr(schedule))
        if buffers not in BUFFERS:
            refuse("Teacher", "buffers", " or ".join(map(repr, BUFFERS)), repr(buffers))
        self.momentum = momentum
        self.schedule = schedule
        self.buffers_as = buffers
        self.module = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged module returns."""
        return self.module(*args, **kwargs)

    def momentum_at(self, progress: float) -> float:
        """M at this share of the training, from 0 to 1.

        Raises:
            ValueError: If the share is outside [0, 1].
        """
        check_momentum(progress, "progress", "Teacher")
        if self.schedule == "constant":
            return self.momentum
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    @torch.no_grad()
    def update(self, student: nn.Module, progress: float = 0.0) -> None:
        """Move towards the student, after each step of the optimizer.

        Args:
            student: Of the structure that was copied.
            progress: Share of the training that is done; only the cosine looks at it.
        """
        keep = 1 - self.momentum_at(progress)
        weights: list[Tensor] = list(self.module.parameters())
        if weights:
            students = zip(student.parameters(), weights, strict=True)
            torch._foreach_lerp_(weights, [p.to(w) for p, w in students], keep)
        if self.buffers_as == "own":
            return
        for to, value in zip(self.module.buffers(), student.buffers(), strict=True):
            if self.buffers_as == "average" and to.is_floating_point():
                to.lerp_(value.to(to), keep)
            else:
                to.copy_(value)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"momentum={self.momentum}, schedule={self.schedule!r}, buffers={self.buffers_as!r}"


def check_momentum(value: float, name: str, op: str) -> None:
    """Reject what is no number from 0 to 1."""
    check_number(value, name, op)
    if not 0 <= value <= 1:
        refuse(op, name, "from 0 to 1", value)
