"""Vocabulary softmax: the public function, and the shapes and gradient of its operator."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    check_number,
    check_positive_number,
    check_reduction,
    check_tensor,
    refuse_second_derivative,
)
from sslkern.ops._formed import register_formed
from sslkern.parallel.agreement import whole
from sslkern.parallel.gradients import sum_over_ranks
from sslkern.parallel.processes import Processes, Sharing, are_many
from sslkern.parallel.rows import flat_rows, mean_by_shares, no_rows, rows_of_ranks, stand_in
from sslkern.reference._common import ordered_sum

_OP = "linear_cross_entropy"

KEPT_BYTES = 128 * 2**20
"""Memory for logits between the two halves of forming gradients, whatever N and V."""

LEAST_CHUNK, LEAST_DIMS = 192, 768
"""Fewer rows at a time, or dimensions, cost more than computing the logits twice.

Measured with 30522 classes, time of both passes relative to computing them twice: D = 256 1.07,
512 1.05, 768 0.83, 1024 0.81.
"""


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    softcap: float | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Softmax cross entropy of a linear layer, without its N x V logits.

    With the logits :math:`l_{ij} = x_i \cdot w_j + b_j`, the targets :math:`q_{ij}` (one-hot for an
    index), the class weights :math:`c_j`, the label smoothing :math:`\epsilon` and
    :math:`t_{ij} = c_j ((1 - \epsilon) q_{ij} + \epsilon / V)`:

    .. math:: \ell_i = -\sum_j t_{ij} \log \mathrm{softmax}(l_i)_j

    The options mean what they mean in ``torch.nn.functional.cross_entropy``, whose value it has on
    those logits. Rows with the target ``ignore_index`` cost nothing: they are left out before any
    product.

    Args:
        input: Rows x, (N, D) or (..., D); float64, float32, bfloat16 or float16. Half types are
            read as they are, all arithmetic is in float32 (float64 for float64).
        weight: One row per class, (V, D), of the dtype of ``input``.
        target: Class of each row, (N,) or (...) int64, or probabilities of the classes, (N, V) or
            (..., V); float32 ones (float64 for float64 ``input``) are read in place. No gradient.
        bias: Added to the logits of each class, (V,); -inf bans a class.
        ignore_index: Rows with this target have loss 0 and take no part in the mean, whatever
            ``input`` holds there. Without effect on probabilities.
        label_smoothing: Part of the target spread evenly over the classes, in [0, 1].
        class_weight: Weight of each class, (V,), not negative. No gradient.
        softcap: Where given, the logits become softcap * tanh(logits / softcap); positive.
        reduction: ``"none"`` for one loss per row, ``"sum"``, or ``"mean"``: over the rows with
            probabilities, else the sum divided by the class weights of the targets that are not
            ignored. Where all are ignored it is 0, with zero gradients.
        gather_distributed: Whether the mean or sum is that of the rows of all ranks, each of which
            gives its own; the classes are the same on all. See `sslkern.parallel` for what that
            means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or one loss per row for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, value or reduction; a target out of range is named.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the target or the class weights require grad, or when the gradient
            itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> hidden = torch.eye(2, 3, requires_grad=True)
        >>> vocabulary = torch.eye(3, requires_grad=True)
        >>> loss = sslkern.linear_cross_entropy(hidden, vocabulary, torch.tensor([0, -100]))
        >>> print(f"{loss.item():.6f}")
        0.551445
        >>> loss.backward()

    Equals: `sslkern.reference.linear_cross_entropy`; ``torch.nn.functional.cross_entropy`` of the
    logits.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2018, https://arxiv.org/abs/1810.04805; without the logits: Wijmans et al.,
    "Cut Your Losses in Large-Vocabulary Language Models", 2024, https://arxiv.org/abs/2411.09009
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def compute() -> Tensor:
        for name, value in (("input", input), ("weight", weight), ("target", target)):
            check_tensor(value, name, _OP)
        for name, option in (("bias", bias), ("class_weight", class_weight)):
            if option is not None:
                check_tensor(option, name, _OP)
        check_reduction(reduction, _OP)
        _check_ignore_index(ignore_index)
        check_number(label_smoothing, "label_smoothing", _OP)
        if softcap is not None:
            check_positive_number(softcap, "softcap", _OP)
        _refuse_gradient(target, "target")
        _refuse_gradient(class_weight, "class_weight")
        rows, targets, shape = _flatten(input, weight, target)
        inputs = (rows, weight, bias)
        if rows.dim() == 2 and rows.shape[0] == 0 and are_many(sharing):
            rows_of = (
                stand_in(_OP, "input", rows),
                *(x if x is None else x.detach() for x in inputs[1:]),
            )
            others = (class_weight, ignore_index, label_smoothing, softcap or 0.0)
            torch.ops.sslkern.linear_cross_entropy_fwd(
                *rows_of, stand_in(_OP, "target", targets), *others
            )
            none = no_rows(_OP, "linear_cross_entropy", *inputs)
            return none.reshape(shape) if reduction == "none" else none.sum()
        options = (targets, class_weight, ignore_index, label_smoothing, softcap or 0.0)
        if reduction != "none":
            return _sum(inputs, options)
        loss, _ = torch.ops.sslkern.linear_cross_entropy_fwd(*inputs, *options)
        return cast(Tensor, loss).reshape(shape)

    described = {
        **whole("weight", weight),
        "weight": weight,
        **whole("bias", bias),
        "bias": bias,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        **whole("class_weight", class_weight),
        "class_weight": class_weight,
        "softcap": softcap,
        "reduction": reduction,
        "whether the targets are probabilities": _are_probabilities(target),
    }
    rows = flat_rows(input)
    loss, processes = rows_of_ranks(_OP, sharing, {"input": rows}, described, compute)
    if reduction == "none":
        return loss
    if processes is not None:
        return _reduce_over_ranks(processes, loss, target, ignore_index, class_weight, reduction)
    return (
        loss / _divisor(loss, target, ignore_index, class_weight) if reduction == "mean" else loss
    )


def _are_probabilities(target: Tensor) -> bool:
    return isinstance(target, Tensor) and target.is_floating_point()


def _check_ignore_index(ignore_index: int) -> None:
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(
            f"sslkern::{_OP}: expected ignore_index to be an integer, "
            f"got {type(ignore_index).__name__}"
        )


def _reduce_over_ranks(
    processes: Processes,
    total: Tensor,
    target: Tensor,
    ignore_index: int,
    class_weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """The sum of all ranks or, for the mean, that over their shares in it."""
    if reduction == "sum":
        return sum_over_ranks(processes, total.double()).to(total.dtype)
    if _are_probabilities(target):
        shares = count = total.new_tensor(target.shape[:-1].numel())
    else:
        shares, count = _shares(total, target.flatten(), ignore_index, class_weight)
    return mean_by_shares(processes, total, shares, count).to(total.dtype)


def _sum(inputs: tuple[Tensor, Tensor, Tensor | None], options: tuple[Any, ...]) -> Tensor:
    """The sum of the losses, with its gradients formed at once where that is cheaper."""
    form = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    chunk = _rows_at_once(*inputs[:2]) if form[0] or form[1] else 0
    if chunk == 0:
        loss, _ = torch.ops.sslkern.linear_cross_entropy_fwd(*inputs, *options)
        return ordered_sum(cast(Tensor, loss))
    total, *_ = torch.ops.sslkern.linear_cross_entropy_sum_fwd(*inputs, *options, chunk, *form)
    return cast(Tensor, total)


def _rows_at_once(input: Tensor, weight: Tensor) -> int:
    """Rows whose logits fit ``KEPT_BYTES``, a multiple of 96; 0 where keeping them does not pay.

    It saves a product, and costs the way of the logits to memory and back and, for each chunk of
    rows, the weight packed twice.
    """
    if input.dim() != 2 or weight.dim() != 2 or 0 in (*input.shape, *weight.shape):
        return 0
    if input.shape[1] < LEAST_DIMS:
        return 0
    rows, classes = input.shape[0], weight.shape[0]
    size = 8 if input.dtype == torch.float64 else 4
    most = KEPT_BYTES // (classes * size) // 96 * 96
    if most < LEAST_CHUNK and most < rows:
        return 0
    chunks = -(-rows // most)
    return -(-rows // (chunks * 96)) * 96


def _refuse_gradient(value: Tensor | None, name: str) -> None:
    if value is not None and value.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            f"sslkern::{_OP}: expected {name} not to require grad, got one that does. "
            f"Call .detach() first."
        )


def _flatten(input: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """The rows and their targets, without leading dimensions, and the shape of the losses."""
    shape = input.shape[:-1]
    if input.dim() <= 2:
        return input, target, shape
    columns = weight.shape[:1] if target.is_floating_point() else ()
    if target.shape != (*shape, *columns):
        raise ValueError(
            f"sslkern::{_OP}: expected target to be of shape {(*shape, *columns)}, "
            f"got shape {tuple(target.shape)}"
        )
    rows = shape.numel()
    return input.reshape(rows, input.shape[-1]), target.reshape(rows, *columns), shape


def _divisor(
    total: Tensor, target: Tensor, ignore_index: int, class_weight: Tensor | None
) -> Tensor | int:
    """What the mean divides by; 1 where every row is ignored."""
    if target.is_floating_point():
        return target.shape[:-1].numel()
    shares, count = _shares(total, target.flatten(), ignore_index, class_weight)
    return torch.where(count > 0, shares, 1)


def _shares(
    total: Tensor, target: Tensor, ignore_index: int, class_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum of the rows' shares in the mean, and how many rows have one."""
    valid = target != ignore_index
    shares = valid.to(total.dtype)
    if class_weight is not None:
        # Where nobody has looked, a target out of range has made the sum NaN.
        place = torch.where(valid, target, 0).clamp(0, class_weight.shape[0] - 1)
        shares = shares * class_weight.to(total.dtype)[place]
    return ordered_sum(shares), valid.sum()


def _fake_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    rows = input.shape[0]
    accumulate = accumulate_dtype(input)
    return (
        input.new_empty((rows,), dtype=accumulate),
        input.new_empty((rows, 2), dtype=torch.float64),
    )


def _fake_bwd(
    grad_loss: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    stats: Tensor,
    ignore_index: int,
    label_smoothing: float,
    softcap: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, classes, dims = input.shape[0], weight.shape[0], input.shape[1]
    bias_like = weight if bias is None else bias
    return (
        input.new_empty((rows if need_input else 0, dims)),
        weight.new_empty((classes if need_weight else 0, dims)),
        bias_like.new_empty((classes if need_bias else 0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.options = inputs[5:]
    ctx.save_for_backward(*inputs[:5], output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_loss: Tensor, _grad_stats: Tensor) -> tuple[Any, ...]:
    need = ctx.needs_input_grad[:3]
    grads = torch.ops.sslkern.linear_cross_entropy_bwd(
        grad_loss, *ctx.saved_tensors, *ctx.options, *need
    )
    return (*(g if n else None for g, n in zip(grads, need, strict=True)), *[None] * 5)


def _fake_sum_fwd(
    input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
) -> tuple[Tensor, ...]:
    form_input, form_weight, form_bias = options[-3:]
    dtype = accumulate_dtype(input)
    return (
        input.new_empty((), dtype=dtype),
        input.new_empty((input.shape[0] if form_input else 0, input.shape[1]), dtype=dtype),
        input.new_empty((weight.shape[0] if form_weight else 0, input.shape[1]), dtype=dtype),
        input.new_empty((weight.shape[0] if form_bias else 0,), dtype=torch.float64),
    )


_FWD, _BWD = "sslkern::linear_cross_entropy_fwd", "sslkern::linear_cross_entropy_bwd"
_extension.register_fake(_FWD, _fake_fwd)
_extension.register_fake(_BWD, _fake_bwd)
torch.library.register_autograd(_FWD, _backward, setup_context=_setup_context)

_SUM, _FORMED = "linear_cross_entropy_sum_fwd", "linear_cross_entropy_formed_bwd"
_extension.register_fake(f"sslkern::{_SUM}", _fake_sum_fwd)
register_formed(_OP, _SUM, _FORMED, ("input", "weight", "bias"))
refuse_second_derivative(
    _OP, "linear_cross_entropy", "linear_cross_entropy_bwd", "linear_cross_entropy_formed_bwd"
)
