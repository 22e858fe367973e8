"""Soft cross entropy over K classes, as in DINO: inputs, contenders and the floor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Problem,
    Size,
    Step,
    loss_contender,
    standard_contenders,
    working_dtype,
)
from sslkern.bench.traffic import as_words, traffic_floor

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.04


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of a student and of a teacher that it resembles, and the teacher's center.

    Spread as the cosines that DINO's last layer gives.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows, size.dim)
    shared, noise_s, noise_t = (torch.randn(shape, generator=generator) for _ in range(3))
    student, teacher = ((shared + noise).mul_(0.1).to(dtype) for noise in (noise_s, noise_t))
    return student, teacher, teacher.to(working_dtype(dtype)).mean(0)


def check_size(size: Size) -> None:
    """Any number of rows and classes."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and K in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of forward and backward: memory is the limit, and this its companion.

    Four exponentials per element, each a polynomial of degree 6 with 6 operations around it; in
    the forward pass two sums and a product more, in the backward pass three products.
    """
    return (4 * (2 * 6 + 6) + 10) * size.rows * size.dim


def at_dino_temperatures(loss_fn: LossFn) -> LossFn:
    """The loss of student, teacher and center."""
    return lambda student, teacher, center: loss_fn(
        student,
        teacher,
        student_temperature=STUDENT_TEMPERATURE,
        teacher_temperature=TEACHER_TEMPERATURE,
        center=center,
    )


def _dino(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    """As the authors of DINO wrote it."""
    working = working_dtype(student.dtype)
    q = F.softmax((teacher.to(working) - center) / TEACHER_TEMPERATURE, dim=-1)
    log_p = F.log_softmax(student.to(working) / STUDENT_TEMPERATURE, dim=-1)
    return torch.sum(-q * log_p, dim=-1).mean()


def _prepare_memory_passes(problem: Problem) -> Step:
    """Both matrices read, and read again while the gradient is written."""
    s, t = (as_words(x) for x in problem.inputs[:2])
    g = torch.empty_like(s)

    def step() -> None:
        s.sum()
        t.sum()
        torch.add(s, t, out=g)

    return step


CASE = Case(
    name="soft_cross_entropy",
    title="Soft cross entropy (DINO)",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=at_dino_temperatures(reference.soft_cross_entropy),
    reference_matrices=7.3,
    flops=flops,
    columns=lambda size: size.dim,
    gradients=1,
    contenders=(
        *standard_contenders(
            "soft_cross_entropy", at_dino_temperatures, kernel=1, eager=5.5, compiled=1.3
        ),
        loss_contender(
            "dino", "softmax and log_softmax as in DINO", lambda size: _dino, matrices=4
        ),
        traffic_floor(
            "both matrices read twice, the gradient written once",
            _prepare_memory_passes,
            matrices=1,
        ),
    ),
    default_sizes=(Size(640, 65536), Size(4096, 4096)),
)
