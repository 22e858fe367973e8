"""Soft cross entropy: the public function, and the shapes and gradient of its operator."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    as_scalar_tensor,
    check_constant,
    check_positive,
    check_reduction,
    check_row_weight,
    check_same_device,
    check_tensor,
    refuse,
    refuse_second_derivative,
)
from sslkern.parallel.agreement import presence
from sslkern.parallel.processes import Sharing, are_many
from sslkern.parallel.rows import no_rows, reduce_rows, rows_of_ranks, stand_in

_OP = "soft_cross_entropy"

TEACHER_TEMPERATURE = 0.04
"""Where the caller names none: DINO's."""


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
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Cross entropy of a student's scores against a teacher's (DINO, iBOT, distillation).

    With the teacher's scores :math:`t_i`, their center :math:`c`, and the student's :math:`s_i`:

    .. math:: q_i = \mathrm{softmax}\bigl((t_i - c) / \tau_t\bigr), \quad
              \ell_i = -\sum_k q_{ik} \log \mathrm{softmax}(s_i / \tau_s)_k

    Both matrices are read once forwards and once backwards, and no other of their size is made but
    the gradient. Where :math:`q_{ik}` is 0 the class counts for nothing, whatever the student's
    score: classes may be masked by -inf.

    Args:
        student: Scores (N, K), float64, float32, bfloat16 or float16. Half types are read as they
            are; all arithmetic is in float32 (float64 for float64). Rows may lie apart (slices).
        teacher: Scores (N, K) of the same classes, of the dtype of ``student``; no gradient.
        student_temperature: Positive number or tensor with one element; may require grad.
        teacher_temperature: Positive number or tensor with one element, 0.04 by default; no
            gradient.
        center: Subtracted from the teacher's scores, (K,) or (1, K); no gradient. It may be
            updated before ``backward``.
        from_probabilities: Take the rows of ``teacher`` as :math:`q_i` themselves. They need not
            sum to one: a row of zeros has no loss. Then there is no ``teacher_temperature`` and no
            ``center``.
        weight: Weight of each row, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` = sum(w * loss) / sum(w).
        gather_distributed: Whether the mean or sum is that of the rows of all ranks, each of which
            gives its own; see `sslkern.parallel` for what that means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, value or combination of options, or a teacher,
            center or teacher_temperature that requires grad.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> student = torch.eye(3, requires_grad=True)
        >>> loss = sslkern.soft_cross_entropy(
        ...     student, torch.eye(3), student_temperature=1.0, teacher_temperature=0.5
        ... )
        >>> print(f"{loss.item():.6f}")
        0.764459
        >>> loss = sslkern.soft_cross_entropy(
        ...     student, torch.eye(3), student_temperature=1.0, from_probabilities=True
        ... )
        >>> print(f"{loss.item():.6f}")
        0.551445

    Equals: `sslkern.reference.soft_cross_entropy`.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294; distillation: Hinton et al., "Distilling the Knowledge in a
    Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def compute() -> Tensor:
        check_tensor(student, "student", _OP)
        check_constant(teacher, "teacher", _OP)
        check_reduction(reduction, _OP)
        tau = as_scalar_tensor(student_temperature, "student_temperature", _OP, student)
        check_positive(tau, "student_temperature", _OP)
        teacher_tau = _teacher_temperature(teacher_temperature, from_probabilities, teacher)
        if center is not None:
            check_constant(center, "center", _OP)
            if from_probabilities:
                refuse(_OP, "center", "None with from_probabilities", "a tensor")
        if student.dim() == 2:
            check_row_weight(weight, _OP, {"N": student.shape[0]}, student)
            if student.shape[0] == 0 and are_many(sharing):
                rows_of = (stand_in(_OP, "student", student), stand_in(_OP, "teacher", teacher))
                torch.ops.sslkern.soft_cross_entropy_fwd(
                    *rows_of, tau.detach(), teacher_tau, center
                )
                return no_rows(_OP, "soft_cross_entropy", student, tau)
        # DINO updates the center between the loss and the backward pass.
        inputs = (student, teacher, tau, teacher_tau, None if center is None else center.clone())
        rows: Tensor
        rows, _ = torch.ops.sslkern.soft_cross_entropy_fwd(*inputs)
        return rows

    shards = {"student": student, "teacher": teacher}
    options = {
        "student_temperature": student_temperature,
        "teacher_temperature": teacher_temperature,
        "center": center,
        "from_probabilities": from_probabilities,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    rows, processes = rows_of_ranks(_OP, sharing, shards, options, compute)
    return reduce_rows(processes, rows, weight, reduction)


def _teacher_temperature(
    value: float | Tensor | None, from_probabilities: bool, teacher: Tensor
) -> Tensor | None:
    """The teacher's temperature as a tensor; None where its rows are probabilities."""
    if from_probabilities:
        if value is not None:
            refuse(_OP, "teacher_temperature", "None with from_probabilities", value)
        return None
    value = TEACHER_TEMPERATURE if value is None else value
    tau = as_scalar_tensor(value, "teacher_temperature", _OP, teacher)
    check_constant(tau, "teacher_temperature", _OP)
    check_positive(tau, "teacher_temperature", _OP)
    return tau


def _fake_fwd(
    student: Tensor,
    teacher: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor | None,
    center: Tensor | None,
) -> tuple[Tensor, Tensor]:
    check_same_device(teacher, "teacher", student, "student", _OP)
    if center is not None:
        check_same_device(center, "center", student, "student", _OP)
    rows = student.shape[0]
    accumulate = accumulate_dtype(student)
    return (
        student.new_empty((rows,), dtype=accumulate),
        student.new_empty((rows, 4), dtype=torch.float64),
    )


def _fake_bwd(
    grad_loss: Tensor,
    student: Tensor,
    teacher: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor | None,
    center: Tensor | None,
    stats: Tensor,
    need_temperature: bool,
) -> tuple[Tensor, Tensor]:
    tau = student_temperature
    return (
        student.new_empty(student.shape),
        tau.new_empty(tau.shape if need_temperature else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    need_student, need_teacher, need_tau, need_teacher_tau, need_center = ctx.needs_input_grad
    if need_teacher or need_teacher_tau or need_center:
        raise NotImplementedError(
            f"sslkern::{_OP}: expected gradients of student and student_temperature alone to be "
            f"wanted, got another. Call .detach() on what belongs to the teacher."
        )
    grad_student, grad_tau = torch.ops.sslkern.soft_cross_entropy_bwd(
        grad_loss, *ctx.saved_tensors, need_tau
    )
    return (
        grad_student if need_student else None,
        None,
        grad_tau if need_tau else None,
        None,
        None,
    )


_extension.register_fake("sslkern::soft_cross_entropy_fwd", _fake_fwd)
_extension.register_fake("sslkern::soft_cross_entropy_bwd", _fake_bwd)
torch.library.register_autograd(
    "sslkern::soft_cross_entropy_fwd", _backward, setup_context=_setup_context
)
refuse_second_derivative(_OP, "soft_cross_entropy", "soft_cross_entropy_bwd")
