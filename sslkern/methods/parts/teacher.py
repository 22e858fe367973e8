"""The momentum teacher: an exponential moving average of a student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslkern.methods.parts.schedules import check_share, cosine
from sslkern.ops._common import refuse

Schedule = Literal["constant", "cosine"]
Buffers = Literal["own", "copy", "average"]
SCHEDULES, BUFFERS = ("constant", "cosine"), ("own", "copy", "average")
HALVES = (torch.bfloat16, torch.float16)
WRAPPERS = ("module", "_orig_mod")
"""What `DistributedDataParallel` and `torch.compile` put into the names of parameters."""


class Teacher(nn.Module):
    r"""A copy of a student that follows it slowly and takes no gradient.

    .. math:: \theta_t \leftarrow m\,\theta_t + (1 - m)\,\theta_s

    With the schedule ``"constant"`` (MoCo) m is ``momentum``; with ``"cosine"`` (BYOL, DINO) it
    rises to 1 as :math:`1 - (1 - m_0)(\cos(\pi p) + 1)/2` over the progress p of the training.
    The forward pass runs without gradient, in the mode (training or evaluation) of the teacher.
    Weights and buffers are part of the state. So are copies in float32 of what is averaged in
    bfloat16 or float16: at m = 0.999 a step is smaller than half of what these can tell apart, and
    an average of their own would stand still. The state of a teacher in another dtype may be
    loaded: nothing that was kept in float32 is rounded on the way.

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
        check_share(momentum, "momentum", "Teacher")
        if schedule not in SCHEDULES:
            refuse("Teacher", "schedule", " or ".join(map(repr, SCHEDULES)), repr(schedule))
        if buffers not in BUFFERS:
            refuse("Teacher", "buffers", " or ".join(map(repr, BUFFERS)), repr(buffers))
        self.momentum = momentum
        self.schedule = schedule
        self.buffers_as = buffers
        self.module = copy.deepcopy(student).requires_grad_(False)
        self._keep_exact({})
        self.register_load_state_dict_pre_hook(_translate)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged module returns."""
        return self.module(*args, **kwargs)

    def momentum_at(self, progress: float) -> float:
        """M at this share of the training, from 0 to 1.

        Raises:
            ValueError: If the share is outside [0, 1].
        """
        check_share(progress, "progress", "Teacher")
        if self.schedule == "constant":
            return self.momentum
        return cosine(self.momentum, 1.0, progress)

    @torch.no_grad()
    def update(self, student: nn.Module, progress: float = 0.0) -> None:
        """Move towards the student, after each step of the optimizer.

        Args:
            student: Of the structure that was copied.
            progress: Share of the training that is done; only the cosine looks at it.

        Raises:
            ValueError: If the student has parts of other names or shapes, or the share is outside
                [0, 1].
        """
        keep = 1 - self.momentum_at(progress)
        _check_structure(dict(self.module.named_parameters()), dict(student.named_parameters()))
        if self.buffers_as != "own":
            _check_structure(dict(self.module.named_buffers()), dict(student.named_buffers()))
        followers, leaders = self._averaged(self.module), self._averaged(student)
        exact = [self._exact(i, follower) for i, follower in enumerate(followers)]
        if exact:
            students = zip(leaders, exact, strict=True)
            torch._foreach_lerp_(exact, [leader.to(e) for leader, e in students], keep)
        for follower, e in zip(followers, exact, strict=True):
            if e is not follower:
                follower.copy_(e)
        if self.buffers_as != "own":
            for to, value in zip(self.module.buffers(), student.buffers(), strict=True):
                if self.buffers_as == "copy" or not to.is_floating_point():
                    to.copy_(value)

    def named_averages(self) -> list[tuple[str, Tensor]]:
        """What is averaged, by name, in the order of the copies in float32."""
        buffers = self.module.named_buffers() if self.buffers_as == "average" else ()
        floating = ((name, b) for name, b in buffers if b.is_floating_point())
        return [*self.module.named_parameters(), *floating]

    def _averaged(self, module: nn.Module) -> list[Tensor]:
        """What is averaged, of the teacher or a student."""
        buffers = module.buffers() if self.buffers_as == "average" else ()
        return [*module.parameters(), *(b for b in buffers if b.is_floating_point())]

    def _exact(self, i: int, follower: Tensor) -> Tensor:
        """The float32 copy of what is half, else the tensor itself.

        A half tensor that was written to since the last update is believed, not its copy.
        """
        if follower.dtype not in HALVES:
            return follower
        exact: Tensor = getattr(self, f"exact_{i}")
        return exact.copy_(torch.where(exact.to(follower.dtype) == follower, exact, follower))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Teacher:
        """Convert or move the module; what is half then has a copy, which stays float32."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.clear()
        self._keep_exact(kept)
        return self

    def _keep_exact(self, kept: dict[str, Tensor]) -> None:
        for i, follower in enumerate(self._averaged(self.module)):
            if follower.dtype in HALVES:
                exact = kept.get(f"exact_{i}", follower).detach()
                self.register_buffer(
                    f"exact_{i}", exact.to(follower.device, torch.float32, copy=True)
                )

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"momentum={self.momentum}, schedule={self.schedule!r}, buffers={self.buffers_as!r}"


def _translate(teacher: Teacher, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make of the state of a teacher in another dtype one that fits: halves have copies."""
    for i, (name, follower) in enumerate(teacher.named_averages()):
        rounded, exact = f"{prefix}module.{name}", f"{prefix}exact_{i}"
        if rounded not in state:
            continue
        weight = state[rounded]
        if follower.dtype in HALVES:
            state.setdefault(exact, weight.float())
        elif exact in state:
            kept = state.pop(exact)
            state[rounded] = torch.where(kept.to(weight.dtype) == weight, kept, weight)


def _check_structure(copied: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Reject a student whose parameters or buffers have other names or shapes."""
    expected, got = ({_bare(name): x.shape for name, x in of.items()} for of in (copied, found))
    if list(expected.items()) == list(got.items()):
        return
    for name in [*expected, *got]:
        if expected.get(name) != got.get(name):
            there, here = (tuple(x[name]) if name in x else None for x in (expected, got))
            was = "nothing of that name" if there is None else f"the shape {there}"
            now = f"no {name}" if here is None else f"{name} of shape {here}, where was {was}"
            refuse("Teacher", "student", "of the structure that was copied", now)
    refuse("Teacher", "student", "of the structure that was copied", "another order of its parts")


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
