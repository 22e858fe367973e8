"""SigLIP: the public function, and the shapes and gradient of its operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    as_scalar_tensor,
    check_flags,
    check_one_number,
    check_reduction,
    check_row_weight,
    check_same_device,
    check_tensor,
    refuse_second_derivative,
)
from sslkern.ops._formed import register_formed
from sslkern.parallel.agreement import presence
from sslkern.parallel.gradients import reduce_over_ranks
from sslkern.parallel.processes import Sharing, are_many, meet
from sslkern.parallel.siglip import siglip_rows
from sslkern.reference._common import reduce_loss

_OP = "siglip"


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    negative_only: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Binary cross entropy of every image with every text (SigLIP), without the N x M matrix.

    With :math:`s_{ij} = a \, x_i \cdot t_j + b` and :math:`y_{ij} = 1` for :math:`i = j`, -1
    elsewhere:

    .. math:: \ell_i = \sum_j \log(1 + \exp(-y_{ij} s_{ij}))

    For the unweighted mean and sum, value and gradients come from one pass, in ``forward``; for the
    others ``backward`` makes a second one.

    Args:
        image_features: (N, D), normalised already; float64, float32, bfloat16 or float16. Half
            types are read as they are; all arithmetic is in float32 (float64 for float64).
        text_features: (N, D), normalised already, of the dtype of ``image_features``; row i is the
            match of image i. With ``negative_only`` there may be any number of rows.
        logit_scale: a, a positive number or tensor with one element, exponentiated already; may
            require grad.
        logit_bias: b, a number or tensor with one element; may require grad. None leaves it out.
        negative_only: Whether no text is the match of an image: :math:`y_{ij} = -1` everywhere, as
            for texts of another process.
        weight: Weight of each image, (N,); may require grad.
        reduction: ``"none"`` for the N losses, each a sum over the texts, ``"sum"``, or ``"mean"``
            = sum(w * loss) / sum(w): the sum over all pairs divided by N.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all texts while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or value.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> features = torch.eye(4)
        >>> print(f"{sslkern.siglip_loss(features, features, 10.0, -10.0).item():.6f}")
        0.693283

    Equals: `sslkern.reference.siglip_loss`.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
    https://arxiv.org/abs/2303.15343
    """

    def check_arguments() -> None:
        check_tensor(image_features, "image_features", _OP)
        check_tensor(text_features, "text_features", _OP)
        check_reduction(reduction, _OP)
        check_flags(_OP, negative_only=negative_only)
        if are_many(sharing):
            check_one_number(logit_scale, "logit_scale", _OP, image_features)
            if logit_bias is not None:
                check_one_number(logit_bias, "logit_bias", _OP, image_features, positive=False)
        if image_features.dim() == 2:
            check_row_weight(weight, _OP, {"N": image_features.shape[0]}, image_features)

    sharing = Sharing(gather_distributed, process_group, check, strategy)
    shards = {"image_features": image_features, "text_features": text_features}
    options = {
        "logit_scale": logit_scale,
        "logit_bias": logit_bias,
        "negative_only": negative_only,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    processes = meet(
        _OP, sharing, shards, options, check_arguments, one_shape=negative_only is not True
    )
    scale = as_scalar_tensor(logit_scale, "logit_scale", _OP, image_features)
    bias = None
    if logit_bias is not None:
        bias = as_scalar_tensor(logit_bias, "logit_bias", _OP, image_features)
    inputs = (image_features, text_features, scale, bias)
    if processes is not None:
        shared: Tensor = siglip_rows(processes, *inputs, not negative_only)
        return reduce_over_ranks(processes, shared, weight, reduction)
    if reduction == "none" or weight is not None:
        rows: Tensor = torch.ops.sslkern.siglip_fwd(*inputs, not negative_only)
        return reduce_loss(rows, weight, reduction)
    loss: Tensor
    form = (torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs)
    loss, *_ = torch.ops.sslkern.siglip_sum_fwd(*inputs, not negative_only, *form)
    return loss / image_features.shape[0] if reduction == "mean" else loss


def _fake_fwd(
    query: Tensor, key: Tensor, scale: Tensor, bias: Tensor | None, positives: bool
) -> Tensor:
    check_same_device(key, "text_features", query, "image_features", _OP)
    return query.new_empty((query.shape[0],), dtype=accumulate_dtype(query))


def _fake_sum_fwd(
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    positives: bool,
    form_query: bool,
    form_key: bool,
    form_scale: bool,
    form_bias: bool,
) -> tuple[Tensor, ...]:
    check_same_device(key, "text_features", query, "image_features", _OP)
    accumulate = accumulate_dtype(query)
    rows, keys = _gradient_rows(query, key, form_query, form_key, form_scale)
    return (
        query.new_empty((), dtype=accumulate),
        query.new_empty((rows, query.shape[1]), dtype=accumulate),
        query.new_empty((keys, query.shape[1]), dtype=accumulate),
        query.new_empty((int(form_scale),), dtype=torch.float64),
        query.new_empty((int(form_bias),), dtype=torch.float64),
    )


def _fake_bwd(
    grad_loss: Tensor,
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    positives: bool,
    need_query: bool,
    need_key: bool,
    need_scale: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, keys = _gradient_rows(query, key, need_query, need_key, need_scale)
    none = query.new_empty((0,), dtype=torch.float64)
    return (
        query.new_empty((rows, query.shape[1])),
        key.new_empty((keys, query.shape[1])),
        scale.new_empty(scale.shape) if need_scale else none,
        bias.new_empty(bias.shape) if need_bias and bias is not None else none.clone(),
    )


def _gradient_rows(
    query: Tensor, key: Tensor, need_query: bool, need_key: bool, need_scale: bool
) -> tuple[int, int]:
    """Rows of the gradients that come out; that of the scale brings that of a side with it."""
    rows = query.shape[0] if need_query or (need_scale and not need_key) else 0
    return rows, key.shape[0] if need_key else 0


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.positives = inputs[4]
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
    need = ctx.needs_input_grad[:4]
    grads = torch.ops.sslkern.siglip_bwd(grad_loss, *ctx.saved_tensors, ctx.positives, *need)
    return (*(g if wanted else None for g, wanted in zip(grads, need, strict=True)), None)


_extension.register_fake("sslkern::siglip_fwd", _fake_fwd)
_extension.register_fake("sslkern::siglip_sum_fwd", _fake_sum_fwd)
_extension.register_fake("sslkern::siglip_bwd", _fake_bwd)
torch.library.register_autograd("sslkern::siglip_fwd", _backward, setup_context=_setup_context)
register_formed(_OP, "siglip_sum_fwd", "siglip_formed_bwd", ("query", "key", "scale", "bias"))
refuse_second_derivative(_OP, "siglip_loss", "siglip_bwd", "siglip_formed_bwd")
