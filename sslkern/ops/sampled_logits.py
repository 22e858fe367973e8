"""Sampled logits and the losses on them: public functions, shapes and gradient of the operator."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    as_scalar_tensor,
    check_number,
    check_one_element,
    check_positive,
    check_reduction,
    check_row_weight,
    check_same_device,
    check_tensor,
    refuse,
    refuse_second_derivative,
)
from sslkern.parallel.agreement import presence, whole
from sslkern.parallel.gradients import log_sum_over_ranks
from sslkern.parallel.processes import Processes, Sharing, are_many
from sslkern.parallel.rows import no_rows, reduce_rows, rows_of_ranks, stand_in

_OP = "sampled_logits"


def sampled_logits(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    r"""Inner products of each query with rows of a table, without gathering them as N x K x D.

    .. math:: s_{ik} = q_i \cdot u_{j_{ik}}

    The rows are read where they lie. The gradient of the table is dense, and like everything else
    it does not depend on the number of threads, to the bit.

    Args:
        query: Queries (N, D), float64, float32, bfloat16 or float16. Half types are read as they
            are; all arithmetic is in float32 (float64 for float64).
        table: Rows (V, D) of the dtype of ``query``. Rows and queries are taken as they are, not
            normalised.
        index: The rows that each query meets, (N, K) int64 in [0, V); repetitions are allowed.

    Returns:
        Logits (N, K); float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or index.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> table = torch.arange(6.0).reshape(3, 2)
        >>> sslkern.sampled_logits(torch.ones(1, 2), table, torch.tensor([[2, 0, 2]]))
        tensor([[9., 1., 9.]])

    Equals: `sslkern.reference.sampled_logits`.

    Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, https://arxiv.org/abs/1310.4546
    """
    for name, value in (("query", query), ("table", table), ("index", index)):
        check_tensor(value, name, _OP)
    logits: Tensor = torch.ops.sslkern.sampled_logits_fwd(query, table, index)
    return logits


def negative_sampling_loss(
    query: Tensor,
    table: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Logistic loss of one positive and K sampled negatives for each query (word2vec).

    With the rows :math:`u` of the table, the positive :math:`p_i` and the negatives
    :math:`n_{ik}`:

    .. math:: \ell_i = -\log \sigma(q_i \cdot u_{p_i}) - \sum_k \log \sigma(-q_i \cdot u_{n_{ik}})

    In skip-gram the query is the vector of the centre word and the positive a word of its context;
    in CBOW the query is the mean of the context's vectors and the positive the centre word. The
    negatives of both come from `sslkern.methods.UnigramSampler`.

    Args:
        query: Queries (N, D), float64, float32, bfloat16 or float16. Half types are read as they
            are; all arithmetic is in float32 (float64 for float64).
        table: Output vectors (V, D) of the dtype of ``query``.
        positive: Row of the table that belongs to each query, (N,) int64.
        negative: Rows that do not, (N, K) int64. A negative that is the positive counts as drawn.
        weight: Weight of each query, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` = sum(w * loss) / sum(w).
        gather_distributed: Whether the mean or sum is that of the queries of all ranks, each of
            which gives its own; the table is the same on all. See `sslkern.parallel` for what that
            means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, index or reduction.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> table = torch.zeros(10, 4, requires_grad=True)
        >>> centre, context = torch.randn(3, 4), torch.tensor([1, 2, 3])
        >>> negative = torch.randint(10, (3, 5))
        >>> loss = sslkern.negative_sampling_loss(centre, table, context, negative)
        >>> print(f"{loss.item():.6f}")  # 6 ln 2
        4.158883
        >>> loss.backward()

    Equals: `sslkern.reference.negative_sampling_loss`.

    Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, https://arxiv.org/abs/1310.4546
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def compute() -> Tensor:
        empty = are_many(sharing)
        check_reduction(reduction, _OP)
        index = _candidates(query, table, positive, negative, empty=empty)
        check_row_weight(weight, _OP, {"N": query.shape[0]}, query)
        return _logits(query, table, index)

    options = _described(table, negative) | {
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    logits, processes = rows_of_ranks(_OP, sharing, {"query": query}, options, compute)
    return reduce_rows(processes, _logistic_loss(logits), weight, reduction)


def sampled_nce_loss(
    query: Tensor,
    table: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    log_normalizer: float | Tensor | None = None,
    noise_probability: float | Tensor | None = None,
    eps: float = 0.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Noise-contrastive estimation of each query's row among K rows drawn from a noise.

    With the rows :math:`v` of the table, a constant :math:`Z` in place of the sum over all rows and
    the probability :math:`P_n` of the noise:

    .. math:: P_{ij} = \exp(q_i \cdot v_j / \tau) / Z, \quad
              \ell_i = -\log \frac{P_{i p_i}}{P_{i p_i} + K P_n + \epsilon}
                       - \sum_k \log \frac{K P_n}{P_{i n_{ik}} + K P_n + \epsilon}

    All of it is evaluated in logarithms, so no exponential overflows at a low temperature. An
    instance memory as the table needs no gradient; update it after ``backward``, which reads it:
    doing so earlier raises.

    Args:
        query: Queries (N, D), float64, float32, bfloat16 or float16. Half types are read as they
            are; all arithmetic is in float32 (float64 for float64). Queries and rows are taken as
            they are: normalise them first where the method says so.
        table: Rows (V, D) of the dtype of ``query``.
        positive: Row of the table that belongs to each query, (N,) int64.
        negative: Rows drawn from the noise, (N, K) int64. The positive may be among them.
        temperature: Positive number or tensor with one element, which may require grad.
        log_normalizer: :math:`\log Z`, a number or a tensor with one element, which may require
            grad. By default it is estimated from this call's logits by
            `sslkern.estimate_log_normalizer`; `sslkern.losses.SampledNCELoss` keeps the first
            estimate, as the paper does. 0 makes the model learn to normalise itself.
        noise_probability: :math:`P_n`, positive: one number for a uniform noise, 1 / V by default,
            or a tensor (V,) with one for each row.
        eps: 0 is the paper's formula; the authors' code has 1e-7, so as not to divide by zero,
            which cannot happen here.
        weight: Weight of each query, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` = sum(w * loss) / sum(w).
        gather_distributed: Whether the mean or sum is that of the queries of all ranks, each of
            which gives its own; the table is the same on all. See `sslkern.parallel` for what that
            means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, index or value.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> memory, instance = torch.zeros(1000, 8), torch.tensor([0, 7])
        >>> negative = torch.randint(1000, (2, 4096))
        >>> loss = sslkern.sampled_nce_loss(torch.randn(2, 8), memory, instance, negative)
        >>> print(f"{loss.item():.4f}")  # log(K + 1) + K log((K + 1) / K)
        9.3179

    Equals: `sslkern.reference.sampled_nce_loss`.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, https://arxiv.org/abs/1805.01978
    """
    loss, _ = sampled_nce(
        query,
        table,
        positive,
        negative,
        temperature=temperature,
        log_normalizer=log_normalizer,
        noise_probability=noise_probability,
        eps=eps,
        weight=weight,
        reduction=reduction,
        sharing=Sharing(gather_distributed, process_group, check),
    )
    return loss


def sampled_nce(
    query: Tensor,
    table: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float | Tensor,
    log_normalizer: float | Tensor | None,
    noise_probability: float | Tensor | None,
    eps: float,
    weight: Tensor | None,
    reduction: str,
    sharing: Sharing,
) -> tuple[Tensor, Tensor]:
    """The loss of `sampled_nce_loss`, and the log Z that it took."""
    noise: list[Tensor] = []

    def compute() -> Tensor:
        empty = are_many(sharing)
        check_reduction(reduction, _OP)
        index = _candidates(query, table, positive, negative, empty=empty)
        check_row_weight(weight, _OP, {"N": query.shape[0]}, query)
        tau = _one_element(temperature, "temperature", query)
        check_positive(tau, "temperature", _OP)
        if log_normalizer is not None:
            _one_element(log_normalizer, "log_normalizer", query)
        check_number(eps, "eps", _OP)
        if not 0 <= eps < math.inf:
            refuse(_OP, "eps", "a finite number that is not negative", eps)
        noise.append(_log_noise(noise_probability, index, table, negative.shape[1]))
        return _logits(query, table, index) / tau

    options = _described(table, negative) | {
        "temperature": temperature,
        "log_normalizer": log_normalizer,
        "noise_probability": noise_probability,
        "eps": eps,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    s, processes = rows_of_ranks(_OP, sharing, {"query": query}, options, compute)
    if log_normalizer is None:
        log_z = _estimate(processes, s, table.shape[0])
    else:
        log_z = _one_element(log_normalizer, "log_normalizer", query)
    loss = _nce_rows(s, log_z, noise[0], eps)
    return reduce_rows(processes, loss, weight, reduction), log_z


def _nce_rows(s: Tensor, log_z: Tensor, log_noise: Tensor, eps: float) -> Tensor:
    """The losses of rows of logits."""
    # P / (P + c) is the logistic function of log P - log c, c = K P_n + eps; the noise's posterior
    # K P_n / (P + c) is what is left of 1, times K P_n / c.
    log_c = log_noise if eps == 0 else log_noise.logaddexp(log_noise.new_full((), eps).log())
    loss = _logistic_loss(s - (log_z + log_c).to(s.dtype))
    if eps != 0:
        ratio = (log_c - log_noise).expand_as(s)[:, 1:].sum(1)
        loss = loss + ratio.to(loss.dtype)
    return loss


def estimate_log_normalizer(logits: Tensor, rows: int) -> Tensor:
    r"""Logarithm of the sum of exp(logit) over all rows of a table, from a sample of the logits.

    .. math:: \log Z = \log \Bigl(V \operatorname{mean}_{ik} \exp(s_{ik})\Bigr)

    Args:
        logits: Logits of sampled rows, of any shape, divided by the temperature. The authors of the
            method take those of the positives and the negatives of their first batch.
        rows: Number V of rows in the table.

    Returns:
        A float64 scalar without gradient.

    Raises:
        ValueError: If there are no logits or no rows.
        TypeError: If the logits are no floating-point tensor.

    Example:
        >>> import torch, sslkern
        >>> round(sslkern.estimate_log_normalizer(torch.zeros(4, 5), 1000).exp().item(), 6)
        1000.0

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, https://arxiv.org/abs/1805.01978
    """
    check_tensor(logits, "logits", _OP)
    if not logits.is_floating_point():
        raise TypeError(
            f"sslkern::{_OP}: expected logits to be a floating-point tensor, got {logits.dtype}"
        )
    if logits.numel() == 0:
        refuse(_OP, "logits", "a tensor with elements", f"shape {tuple(logits.shape)}")
    if rows < 1:
        refuse(_OP, "rows", "positive", rows)
    return _estimate(None, logits, rows)


def _estimate(processes: Processes | None, logits: Tensor, rows: int) -> Tensor:
    """`estimate_log_normalizer`, from the logits of all ranks."""
    x = logits.detach().double().flatten()
    if processes is None:
        return x.logsumexp(0) + (math.log(rows) - math.log(x.numel()))
    count = processes.all_reduce(torch.full_like(x.sum(), x.numel()))
    return log_sum_over_ranks(processes, x) + math.log(rows) - count.log()


def _logits(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """`sampled_logits`, or none for a rank without queries, which give a zero gradient as well."""
    if query.shape[0] > 0:
        return sampled_logits(query, table, index)
    sampled_logits(stand_in(_OP, "query", query), table.detach(), stand_in(_OP, "index", index))
    return no_rows(_OP, "sampled_logits", query, table)[:, None].expand(-1, index.shape[1])


def _described(table: Tensor, negative: Tensor) -> dict[str, object]:
    """What must be the same on all ranks."""
    return {
        **whole("table", table),
        "table": table,
        "the shape of a row of negative": (
            tuple(negative.shape[1:]) if isinstance(negative, Tensor) else None
        ),
    }


def _candidates(
    query: Tensor, table: Tensor, positive: Tensor, negative: Tensor, *, empty: bool
) -> Tensor:
    """The index of the operator, (N, K + 1): each query's positive, then its negatives."""
    inputs = {"query": query, "table": table, "positive": positive, "negative": negative}
    for name, value in inputs.items():
        check_tensor(value, name, _OP)
    for name, shape in (("query", "(N, D)"), ("table", "(V, D)")):
        sizes = inputs[name].shape[1:] if empty and name == "query" else inputs[name].shape
        if inputs[name].dim() != 2 or 0 in sizes:
            got = f"shape {tuple(inputs[name].shape)}"
            refuse(_OP, name, f"of shape {shape} with no empty dimension", got)
    rows = query.shape[0]
    for name, index in (("positive", positive), ("negative", negative)):
        if index.dtype != torch.int64:
            raise TypeError(
                f"sslkern::{_OP}: expected {name} to be of dtype torch.int64, got {index.dtype}"
            )
        check_same_device(index, name, query, "query", _OP)
    if positive.dim() != 1 or positive.shape[0] != rows:
        refuse(_OP, "positive", f"of shape (N,) = ({rows},)", f"shape {tuple(positive.shape)}")
    if negative.dim() != 2 or negative.shape[0] != rows or negative.shape[1] == 0:
        refuse(
            _OP,
            "negative",
            f"of shape (N, K) with the N of query, {rows}, and K > 0",
            f"shape {tuple(negative.shape)}",
        )
    _check_rows(positive, "positive", table)
    _check_rows(negative, "negative", table)
    return torch.cat([positive[:, None], negative], dim=1)


def _check_rows(index: Tensor, name: str, table: Tensor) -> None:
    """Reject what names no row, in the caller's words; the operator does where this cannot look."""
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0:
        return
    for value in torch.aminmax(index):
        if not 0 <= int(value) < table.shape[0]:
            refuse(_OP, name, f"of values in [0, {table.shape[0]}), the rows of table", int(value))


def _one_element(value: float | Tensor, name: str, like: Tensor) -> Tensor:
    tensor = as_scalar_tensor(value, name, _OP, like)
    check_one_element(tensor, name, _OP)
    return tensor.reshape(())


def _log_noise(
    noise_probability: float | Tensor | None, index: Tensor, table: Tensor, count: int
) -> Tensor:
    """log(K P_n) in float64, of each sample or one for all."""
    rows = table.shape[0]
    noise = as_scalar_tensor(
        1 / rows if noise_probability is None else noise_probability,
        "noise_probability",
        _OP,
        table,
    )
    check_same_device(noise, "noise_probability", table, "table", _OP)
    if noise.numel() != 1 and noise.shape != (rows,):
        refuse(
            _OP,
            "noise_probability",
            f"one number or of shape ({rows},)",
            f"shape {tuple(noise.shape)}",
        )
    drawn = noise.reshape(()) if noise.numel() == 1 else noise[index]
    check_positive(drawn, "noise_probability", _OP)
    return (count * drawn.double()).log()


def _logistic_loss(x: Tensor) -> Tensor:
    """Sum over each row of -log sigma(x) for the first column and -log sigma(-x) for the others."""
    sign = F.pad(x.new_full((x.shape[1] - 1,), -1.0), (1, 0), value=1.0)
    return -F.logsigmoid(x * sign).sum(1)


def _fake_fwd(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    check_same_device(table, "table", query, "query", _OP)
    check_same_device(index, "index", query, "query", _OP)
    accumulate = accumulate_dtype(query)
    return query.new_empty(index.shape, dtype=accumulate)


def _fake_bwd(
    grad_logits: Tensor,
    query: Tensor,
    table: Tensor,
    index: Tensor,
    need_query: bool,
    need_table: bool,
) -> tuple[Tensor, Tensor]:
    return (
        query.new_empty((query.shape[0] if need_query else 0, query.shape[1])),
        table.new_empty((table.shape[0] if need_table else 0, table.shape[1])),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_logits: Tensor) -> tuple[Tensor | None, ...]:
    need_query, need_table, _ = ctx.needs_input_grad
    query, table = torch.ops.sslkern.sampled_logits_bwd(
        grad_logits, *ctx.saved_tensors, need_query, need_table
    )
    return (query if need_query else None, table if need_table else None, None)


_extension.register_fake("sslkern::sampled_logits_fwd", _fake_fwd)
_extension.register_fake("sslkern::sampled_logits_bwd", _fake_bwd)
torch.library.register_autograd(
    "sslkern::sampled_logits_fwd", _backward, setup_context=_setup_context
)
refuse_second_derivative(_OP, "sampled_logits", "sampled_logits_bwd")
