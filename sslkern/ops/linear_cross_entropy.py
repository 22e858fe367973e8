"""Vocabulary softmax: the public function, and the shapes and gradient of its operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.ops import _extension  # noqa: F401  (registers the operators)
from sslkern.ops._common import check_positive_number, check_reduction, check_tensor

_OP = "linear_cross_entropy"


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
        bias: Added to the logits of each class, (V,).
        ignore_index: Rows with this target have loss 0 and take no part in the mean. Without
            effect on probabilities.
        label_smoothing: Part of the target spread evenly over the classes, in [0, 1].
        class_weight: Weight of each class, (V,), not negative. No gradient.
        softcap: Where given, the logits become softcap * tanh(logits / softcap); positive.
        reduction: ``"none"`` for one loss per row, ``"sum"``, or ``"mean"``: over the rows with
            probabilities, else the sum divided by the class weights of the targets that are not
            ignored. Where all are ignored it is 0, with zero gradients.

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
    for name, value in (("input", input), ("weight", weight), ("target", target)):
        check_tensor(value, name, _OP)
    for name, option in (("bias", bias), ("class_weight", class_weight)):
        if option is not None:
            check_tensor(option, name, _OP)
    check_reduction(reduction, _OP)
    if softcap is not None:
        check_positive_number(softcap, "softcap", _OP)
    _refuse_gradient(target, "target")
    _refuse_gradient(class_weight, "class_weight")
    rows, targets, shape = _flatten(input, target)
    loss: Tensor
    loss, _ = torch.ops.sslkern.linear_cross_entropy_fwd(
        rows, weight, bias, targets, class_weight, ignore_index, label_smoothing, softcap or 0.0
    )
    if reduction == "none":
        return loss.reshape(shape)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / _divisor(loss, targets, ignore_index, class_weight)


def _refuse_gradient(value: Tensor | None, name: str) -> None:
    if value is not None and value.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            f"sslkern::{_OP}: expected {name} not to require grad, got one that does. "
            f"Call .detach() first."
        )


def _flatten(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """The rows and their targets, without leading dimensions, and the shape of the losses."""
    shape = input.shape[:-1]
    if input.dim() <= 2:
        return input, target, shape
    expected = shape if not target.is_floating_point() else (*shape, target.shape[-1])
    if target.shape != expected:
        raise ValueError(
            f"sslkern::{_OP}: expected target to be of shape {tuple(expected)}, "
            f"got shape {tuple(target.shape)}"
        )
    rows = input.reshape(-1, input.shape[-1])
    if not target.is_floating_point():
        return rows, target.reshape(-1), shape
    return rows, target.reshape(-1, target.shape[-1]), shape


def _divisor(
    loss: Tensor, target: Tensor, ignore_index: int, class_weight: Tensor | None
) -> Tensor | int:
    """What the mean divides by; 1 where every row is ignored."""
    if target.is_floating_point():
        return loss.shape[0]
    valid = target != ignore_index
    shares = valid.to(loss.dtype)
    if class_weight is not None:
        shares = shares * class_weight.to(loss.dtype)[torch.where(valid, target, 0)]
    return torch.where(valid.any(), shares.sum(), 1)


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
    accumulate = torch.float64 if input.dtype == torch.float64 else torch.float32
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


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "sslkern::linear_cross_entropy: expected the gradient not to be differentiated again, got "
        "a double backward. Use sslkern.reference.linear_cross_entropy where second derivatives "
        "are needed."
    )


_FWD, _BWD = "sslkern::linear_cross_entropy_fwd", "sslkern::linear_cross_entropy_bwd"
torch.library.register_fake(_FWD, _fake_fwd)
torch.library.register_fake(_BWD, _fake_bwd)
torch.library.register_autograd(_FWD, _backward, setup_context=_setup_context)
torch.library.register_autograd(_BWD, _no_double_backward)
