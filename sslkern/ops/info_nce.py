"""InfoNCE: the public functions, and the shapes and gradient of their operator."""

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
    check_floating,
    check_number,
    check_one_element,
    check_positive,
    check_reduction,
    check_row_weight,
    check_same_device,
    check_same_dtype,
    check_tensor,
    refuse,
    refuse_second_derivative,
)
from sslkern.ops._pairs import dot
from sslkern.parallel.agreement import presence, whole
from sslkern.parallel.info_nce import (
    Columns,
    Options,
    check_here,
    described,
    rows_with_own_keys,
    rows_with_targets,
    temperature_of_ranks,
)
from sslkern.parallel.processes import Processes, Sharing, are_many, meet
from sslkern.parallel.rows import no_rows, reduce_rows
from sslkern.reference._common import (
    normalize_rows,
    to_working_dtype,
)

_OP = "info_nce"


def info_nce_loss(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    in_batch: bool | None = None,
    target: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    bias: Tensor | None = None,
    symmetric: bool = False,
    normalize: bool = True,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Cross entropy of queries against keys (InfoNCE), without the N x M matrix of similarities.

    With the columns :math:`c_j`, :math:`s_{ij} = \hat q_i \cdot \hat c_j / \tau_j + b_j` and the
    target :math:`t_i`:

    .. math:: \ell_i = \log \sum_j \exp(s_{ij}) - s_{i, t_i}

    The columns are the keys; with ``negatives`` (a queue or memory bank) they are the row's own key
    and the negatives (MoCo), or with ``in_batch=True`` all keys and the negatives. While neither
    the keys nor the negatives need a gradient, that of the queries is formed in the forward pass: a
    queue may then be overwritten before ``backward``. Otherwise doing so raises.

    Args:
        query: Queries (N, D), float64, float32, bfloat16 or float16. Half types are read as they
            are; all arithmetic is in float32 (float64 for float64).
        key: Keys (M, D), of the dtype of ``query``. Row i is the positive of query i unless
            ``target`` says otherwise.
        negatives: More columns (K, D), read in place.
        in_batch: Whether the keys of other rows are columns too. By default they are exactly when
            there are no ``negatives``.
        target: Index of the positive among the columns for each query, (N,) int64.
        temperature: Positive number, tensor with one element, or one per column, (columns,); may
            require grad.
        bias: Added to the logits of each column, (columns,); may require grad.
        symmetric: Average with the loss of the columns against the queries; needs N = M.
        normalize: Scale all rows to unit norm first; rows with norm below 1e-12 count as zero.
        ids: Identity of each query, (N,) int64: columns of the same identity, other than the
            target, are left out of the row's denominator.
        key_ids: Identity of each column, (columns,) int64; with negatives alone, of each negative.
            By default ``ids`` where the columns are the keys.
        label_smoothing: Part of the target spread evenly over the row's columns, in [0, 1].
        weight: Weight of each query, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` = sum(w * loss) / sum(w).
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all keys while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, value or combination of options.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> query = torch.eye(3, requires_grad=True)
        >>> loss = sslkern.info_nce_loss(query, torch.eye(3), temperature=1.0)
        >>> print(f"{loss.item():.6f}")
        0.551445
        >>> queue = torch.eye(3)[[0, 1]]
        >>> loss = sslkern.info_nce_loss(query, torch.eye(3), queue, temperature=1.0)

    Equals: `sslkern.reference.info_nce_loss`.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    https://arxiv.org/abs/1807.03748; with a queue: He et al., "Momentum Contrast for Unsupervised
    Visual Representation Learning", 2019, https://arxiv.org/abs/1911.05722
    """
    in_batch = negatives is None if in_batch is None else in_batch
    bank_alone = negatives is not None and in_batch is False
    sharing = Sharing(gather_distributed, process_group, check, strategy)

    def check_arguments() -> None:
        _check_tensors(query=query, key=key)
        _check_optional(negatives=negatives, target=target, bias=bias, ids=ids, key_ids=key_ids)
        check_reduction(reduction, _OP)
        check_flags(_OP, in_batch=in_batch, symmetric=symmetric, normalize=normalize)
        _check_combination(query, key, negatives, in_batch, target, symmetric)
        check_number(label_smoothing, "label_smoothing", _OP)
        check_positive(as_scalar_tensor(temperature, "temperature", _OP, query), "temperature", _OP)
        if bank_alone:
            _check_bank_alone(temperature, bias)
        if query.dim() == 2:
            check_row_weight(weight, _OP, {"N": query.shape[0]}, query)
        if are_many(sharing):
            own = {"temperature": temperature, "bias": bias, "key_ids": key_ids}
            _check_ids(ids, key_ids, negatives)
            if negatives is not None:
                _check_negatives(key, negatives)
            if bank_alone:  # its columns are the negatives, and the key that the row has itself
                of_negatives = {"key_ids": own.pop("key_ids")}
                check_here(_OP, query, len(negatives), of_negatives, {"ids": ids})  # type: ignore
            columns = len(key) + (0 if negatives is None else len(negatives))
            check_here(_OP, query, columns, own, {"target": target, "ids": ids})
            if not 0 <= label_smoothing <= 1:
                refuse(_OP, "label_smoothing", "in [0, 1]", label_smoothing)

    options = {
        "temperature": described(temperature),
        "bias": described(bias),
        "in_batch": in_batch,
        **whole("negatives", negatives),
        "negatives": presence(negatives),
        "target": target is not None,
        "ids": (ids is not None, key_ids is not None),
        "symmetric": symmetric,
        "normalize": normalize,
        "label_smoothing": label_smoothing,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    shards = {"query": query, "key": key}
    processes = meet(_OP, sharing, shards, options, check_arguments, one_shape=False)
    tau = as_scalar_tensor(temperature, "temperature", _OP, query)
    if processes is not None:
        count = len(key) + (0 if negatives is None else len(negatives))
        tau = temperature_of_ranks(processes, tau, count)
    if negatives is not None and bank_alone:
        if processes is not None and len(query) == 0:
            rows = no_rows(_OP, "info_nce_loss", query, key, negatives, tau)
        else:
            rows = _against_bank(
                *(query, key, negatives, tau, ids, key_ids),
                normalize=normalize,
                label_smoothing=label_smoothing,
            )
    else:
        if key_ids is None and negatives is None and _one_key_each(processes, query, key, ids):
            key_ids = ids
        columns = key if negatives is None else _concatenate(key, negatives)
        rows = _against_columns(
            *(processes, query, Columns(columns, 1 / tau, bias, key_ids), target, ids),
            normalize=normalize,
            symmetric=symmetric,
            label_smoothing=label_smoothing,
        )
    return reduce_rows(processes, rows, weight, reduction)


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Mean of the cross entropies of images against texts and texts against images (CLIP).

    The logits are ``logit_scale * image_features @ text_features.T + logit_bias`` with the diagonal
    as target; row and column statistics come from one pass over them, and the matrix is never
    stored.

    Args:
        image_features: (N, D), normalised already; float64, float32, bfloat16 or float16.
        text_features: (N, D), normalised already.
        logit_scale: Positive number or tensor with one element, exponentiated already; may require
            grad.
        logit_bias: Number or tensor with one element. The softmax does not depend on it, so it
            changes nothing and gets a zero gradient.
        reduction: ``"none"`` for the mean of both cross entropies of each pair, ``"sum"`` or
            ``"mean"``.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all texts while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, scale or reduction.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> features = torch.eye(4)
        >>> print(f"{sslkern.clip_loss(features, features, 1.0).item():.6f}")
        0.743668

    Equals: `sslkern.reference.clip_loss`.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    2021, https://arxiv.org/abs/2103.00020
    """

    def check_arguments() -> None:
        check_reduction(reduction, _OP)
        _check_tensors(image_features=image_features, text_features=text_features)
        _check_features(image_features, text_features)
        scale = as_scalar_tensor(logit_scale, "logit_scale", _OP, image_features)
        check_positive(scale, "logit_scale", _OP)
        check_one_element(scale, "logit_scale", _OP)
        if are_many(sharing):
            check_same_device(scale, "logit_scale", image_features, "image_features", _OP)

    sharing = Sharing(gather_distributed, process_group, check, strategy)
    shards = {"image_features": image_features, "text_features": text_features}
    options = {"logit_scale": logit_scale, "logit_bias": logit_bias, "reduction": reduction}
    processes = meet(_OP, sharing, shards, options, check_arguments)
    scale = as_scalar_tensor(logit_scale, "logit_scale", _OP, image_features)
    if processes is not None:
        scale = scale.reshape(())
        rows_of = processes.rows
        processes = processes.with_rows(
            query=rows_of["image_features"], key=rows_of["text_features"]
        )
    rows = _against_columns(
        *(processes, image_features, Columns(text_features, scale, None, None), None, None),
        normalize=False,
        symmetric=True,
        label_smoothing=0.0,
        definition="clip_loss",
    )
    loss = reduce_rows(processes, rows, None, reduction)
    if isinstance(logit_bias, Tensor):
        loss = loss + 0.0 * logit_bias.sum().to(loss.dtype)  # the zero gradient it is due
    return loss


@torch.no_grad()
def positive_rank(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    in_batch: bool | None = None,
    target: Tensor | None = None,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """How many columns are more similar to each query than its positive, (N,) int64.

    The arguments are those of `info_nce_loss`.
    """
    _check_tensors(query=query, key=key)
    _check_optional(negatives=negatives, target=target, ids=ids, key_ids=key_ids)
    in_batch = negatives is None if in_batch is None else in_batch
    _check_combination(query, key, negatives, in_batch, target, symmetric=False)
    threshold, columns = None, key
    if negatives is not None and not in_batch:
        _check_negatives(key, negatives)
        columns = negatives
        own = [to_working_dtype(z).double() for z in (query, key)]
        q, k = (normalize_rows(z) for z in own) if normalize else own
        threshold = (q * k).sum(1)
    else:
        columns = key if negatives is None else _concatenate(key, negatives)
        if key_ids is None and negatives is None and key.shape[:1] == query.shape[:1]:
            key_ids = ids
        target = _diagonal(query, columns) if target is None else target
    rank: Tensor = torch.ops.sslkern.info_nce_rank(
        query, columns, target, threshold, ids, key_ids, normalize
    )
    return rank


def _check_tensors(**tensors: object) -> None:
    for name, value in tensors.items():
        check_tensor(value, name, _OP)


def _check_optional(**tensors: object) -> None:
    for name, value in tensors.items():
        if value is not None:
            check_tensor(value, name, _OP)


def _check_combination(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    in_batch: bool,
    target: Tensor | None,
    symmetric: bool,
) -> None:
    """Refuse options that contradict each other."""
    if negatives is None and not in_batch:
        refuse(_OP, "in_batch", "True without negatives", in_batch)
    if symmetric and negatives is not None:
        refuse(_OP, "symmetric", "False with negatives", symmetric)
    if symmetric and target is not None:
        refuse(_OP, "symmetric", "False with a target", symmetric)
    bank_alone = negatives is not None and not in_batch
    if bank_alone and target is not None:
        refuse(
            _OP,
            "target",
            "None with negatives alone, where the own key is the positive",
            "a tensor",
        )
    one_key_each = symmetric or bank_alone or target is None
    if one_key_each and query.dim() == key.dim() == 2 and query.shape[0] != key.shape[0]:
        refuse(
            _OP,
            "key",
            f"one row for each of the {query.shape[0]} queries (or target given)",
            f"{key.shape[0]} rows",
        )


def _check_bank_alone(temperature: float | Tensor, bias: Tensor | None) -> None:
    """Refuse what belongs to columns, which the rows' own keys are not."""
    if bias is not None:
        refuse(_OP, "bias", "None with negatives alone", "a tensor")
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        got = f"shape {tuple(temperature.shape)}"
        refuse(_OP, "temperature", "one number with negatives alone", got)


def _check_ids(ids: Tensor | None, key_ids: Tensor | None, negatives: Tensor | None) -> None:
    """Refuse ids of rows alone, but where they are those of the keys, or of columns alone."""
    if ids is None and key_ids is not None:
        refuse(_OP, "key_ids", "given exactly when ids is", "key_ids alone")
    if ids is not None and key_ids is None and negatives is not None:
        refuse(_OP, "key_ids", "given exactly when ids is", "ids alone")


def _one_key_each(
    processes: Processes | None, query: Tensor, key: Tensor, ids: Tensor | None
) -> bool:
    """Whether the ids of the queries are those of the keys, on all ranks if on one."""
    if processes is None:
        return key.shape[:1] == query.shape[:1]
    one_each = processes.rows["query"] == processes.rows["key"]
    if ids is not None and not one_each:
        refuse(_OP, "key_ids", "given where a rank has more queries or keys", "ids alone")
    return one_each


def _check_features(image: Tensor, text: Tensor) -> None:
    """The checks of the operator, in the names that `clip_loss` uses."""
    if image.dim() != 2:
        refuse(_OP, "image_features", "of shape (N, D)", f"shape {tuple(image.shape)}")
    check_same_device(text, "text_features", image, "image_features", _OP)
    if text.shape != image.shape:
        refuse(
            _OP,
            "text_features",
            f"of the shape of image_features, {tuple(image.shape)}",
            f"shape {tuple(text.shape)}",
        )
    check_same_dtype(text, "text_features", image, "image_features", _OP)


def _concatenate(key: Tensor, negatives: Tensor) -> Tensor:
    _check_negatives(key, negatives)
    return torch.cat([key, negatives])


def _check_negatives(key: Tensor, negatives: Tensor) -> None:
    check_floating(negatives, "negatives", _OP)
    check_same_device(negatives, "negatives", key, "key", _OP)
    check_same_dtype(negatives, "negatives", key, "key", _OP)
    shape = tuple(negatives.shape)
    if negatives.dim() != 2 or negatives.shape[0] == 0 or negatives.shape[1:] != key.shape[1:]:
        refuse(_OP, "negatives", f"of shape (K, {key.shape[-1]}) with K > 0", f"shape {shape}")


def _diagonal(query: Tensor, columns: Tensor) -> Tensor | None:
    return torch.arange(query.shape[0], device=query.device) if query.dim() else None


def _softmax_rows(
    query: Tensor,
    key: Tensor,
    target: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    key_ids: Tensor | None,
    *,
    normalize: bool,
    symmetric: bool,
    label_smoothing: float,
) -> Tensor:
    """Losses of the rows, averaged with those of the columns if symmetric."""
    form = not symmetric and _only_query_needs_grad(query, key, scale, bias)
    loss: Tensor
    loss, loss_col, *_ = torch.ops.sslkern.info_nce_fwd(
        query, key, target, scale, bias, ids, key_ids, normalize, symmetric, label_smoothing, form
    )
    return (loss + loss_col) / 2 if symmetric else loss


def _against_columns(
    processes: Processes | None,
    query: Tensor,
    columns: Columns,
    target: Tensor | None,
    ids: Tensor | None,
    *,
    normalize: bool,
    symmetric: bool,
    label_smoothing: float,
    definition: str = "info_nce_loss",
) -> Tensor:
    """Losses of the rows against this rank's columns or, with ``processes``, those of all."""
    if processes is None:
        c = columns
        aim = _diagonal(query, c.rows) if target is None else target
        return _softmax_rows(
            *(query, c.rows, aim, c.scale, c.bias, ids, c.ids),
            normalize=normalize,
            symmetric=symmetric,
            label_smoothing=label_smoothing,
        )
    options = Options(definition, normalize, symmetric, label_smoothing)
    if target is not None:
        return rows_with_targets(processes, options, query, columns, target, ids)
    return rows_with_own_keys(processes, options, query, columns, ids)


def _only_query_needs_grad(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor | None) -> bool:
    """Whether the gradient can be formed in the forward pass (the scale's comes along)."""
    if not torch.is_grad_enabled() or not query.requires_grad:
        return False
    per_key_scale = scale.numel() > 1 and scale.requires_grad
    return not (key.requires_grad or per_key_scale or (bias is not None and bias.requires_grad))


def _against_bank(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    tau: Tensor,
    ids: Tensor | None,
    key_ids: Tensor | None,
    *,
    normalize: bool,
    label_smoothing: float,
) -> Tensor:
    """Losses of the rows against their own key and the negatives.

    The bank's log-sum-exp is streamed; the positive joins it by log(1 + exp(bank - positive)).
    """
    _check_negatives(key, negatives)
    if query.dim() != 2 or query.shape != key.shape:
        refuse(
            _OP, "key", f"of the shape of query, {tuple(query.shape)}", f"shape {tuple(key.shape)}"
        )
    check_same_dtype(key, "key", query, "query", _OP)
    arguments = (query, negatives, None, 1 / tau, None, ids, key_ids, normalize, False)
    form = _only_query_needs_grad(query, negatives, tau, None)
    bank, _, stats, *_ = torch.ops.sslkern.info_nce_fwd(*arguments, 0.0, form)
    positive = (dot(query, key, normalize) / tau.double().reshape(())).to(bank.dtype)
    # log(1 + exp(bank - positive)): exact where the positive dominates.
    loss = torch.logaddexp(bank - positive, torch.zeros_like(positive))
    if label_smoothing == 0:
        return loss
    # A smoothing of 1 without a target gives the bank's log-sum-exp less its mean logit.
    less_mean, *_ = torch.ops.sslkern.info_nce_fwd(*arguments, 1.0, form)
    count = stats[:, 1].to(bank.dtype)
    # Where every negative is excluded their mean is not defined, and they do not count.
    logits = torch.where(count > 0, count * (bank - less_mean), torch.zeros_like(count))
    mean: Tensor = (positive + logits) / (count + 1)
    # lse - (1 - e) positive - e mean, and lse = loss + positive.
    return loss + label_smoothing * (positive - mean)


def _fake_fwd(
    query: Tensor,
    key: Tensor,
    target: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    normalize: bool,
    symmetric: bool,
    label_smoothing: float,
    form_grad: bool,
) -> tuple[Tensor, ...]:
    check_same_device(key, "key", query, "query", _OP)
    rows, cols = query.shape[0], key.shape[0] if symmetric else 0
    formed = rows if form_grad else 0
    accumulate = accumulate_dtype(query)
    return (
        query.new_empty((rows,), dtype=accumulate),
        query.new_empty((cols,), dtype=accumulate),
        query.new_empty((rows, 2), dtype=torch.float64),
        query.new_empty((cols, 2), dtype=torch.float64),
        query.new_empty((formed, query.shape[1]), dtype=accumulate),
        query.new_empty((formed,), dtype=torch.float64),
    )


def _fake_bwd(
    grad_loss: Tensor,
    grad_loss_col: Tensor,
    query: Tensor,
    key: Tensor,
    target: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    stats: Tensor,
    stats_col: Tensor,
    normalize: bool,
    symmetric: bool,
    label_smoothing: float,
    need_query: bool,
    need_key: bool,
    need_scale: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    per_key = scale.numel() > 1
    rows = query.shape[0] if need_query or (need_scale and not per_key) else 0
    keys = key.shape[0] if need_key or (need_scale and per_key) else 0
    dims = query.shape[1]
    return (
        query.new_empty((rows, dims)),
        key.new_empty((keys, dims)),
        scale.new_empty(scale.shape if need_scale else (0,)),
        scale.new_empty((key.shape[0],), dtype=bias.dtype)
        if need_bias and bias is not None
        else scale.new_empty((0,), dtype=torch.float64),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, target, scale, bias, query_ids, key_ids = inputs[:7]
    ctx.normalize, ctx.symmetric, ctx.label_smoothing, ctx.formed = inputs[7:]
    _, _, stats, stats_col, grad_query, query_dot = output
    ctx.mark_non_differentiable(stats, stats_col, grad_query, query_dot)
    if ctx.formed:  # nothing of the keys is kept: they may change before the backward pass
        ctx.save_for_backward(query, scale, grad_query, query_dot)
    else:
        ctx.save_for_backward(query, key, target, scale, bias, query_ids, key_ids, stats, stats_col)


def _backward(ctx: Any, grad_loss: Tensor, grad_loss_col: Tensor, *_: Any) -> tuple[Any, ...]:
    if ctx.formed:
        grads = torch.ops.sslkern.info_nce_formed_bwd(grad_loss, *ctx.saved_tensors)
        return (grads[0], None, None, grads[1] if ctx.needs_input_grad[3] else None, *[None] * 7)
    saved = ctx.saved_tensors
    need_query, need_key, _, need_scale, need_bias = ctx.needs_input_grad[:5]
    query, key, scale, bias = torch.ops.sslkern.info_nce_bwd(
        grad_loss,
        grad_loss_col,
        *saved,
        ctx.normalize,
        ctx.symmetric,
        ctx.label_smoothing,
        need_query,
        need_key,
        need_scale,
        need_bias,
    )
    return (
        query if need_query else None,
        key if need_key else None,
        None,
        scale if need_scale else None,
        bias if need_bias else None,
        *[None] * 6,
    )


def _fake_formed_bwd(
    grad_loss: Tensor, query: Tensor, scale: Tensor, grad_query: Tensor, query_dot: Tensor
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), scale.new_empty(scale.shape if scale.numel() == 1 else 0)


def _fake_rank(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty((query.shape[0],), dtype=torch.int64)


_extension.register_fake("sslkern::info_nce_rank", _fake_rank)
_extension.register_fake("sslkern::info_nce_fwd", _fake_fwd)
_extension.register_fake("sslkern::info_nce_bwd", _fake_bwd)
torch.library.register_autograd("sslkern::info_nce_fwd", _backward, setup_context=_setup_context)
_extension.register_fake("sslkern::info_nce_formed_bwd", _fake_formed_bwd)
refuse_second_derivative(_OP, "info_nce_loss", "info_nce_bwd", "info_nce_formed_bwd")
