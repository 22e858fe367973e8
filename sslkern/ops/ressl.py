"""ReSSL's loss: soft cross entropy over a queue, composed of two passes of InfoNCE's operator."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension  # noqa: F401  (registers the operators)
from sslkern.ops._common import (
    as_scalar_tensor,
    check_constant,
    check_one_element,
    check_positive,
    check_reduction,
    check_row_weight,
    check_tensor,
    refuse,
)
from sslkern.ops._embeddings import check_rows, check_same_kind
from sslkern.parallel.agreement import presence, whole
from sslkern.parallel.processes import Sharing, are_many
from sslkern.parallel.rows import no_rows, reduce_rows, rows_of_ranks, stand_in
from sslkern.reference._common import NORM_EPS, normalize_rows

_OP = "ressl"


def ressl_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Cross entropy of a query's softmax over a queue against its key's (ReSSL).

    With the rows :math:`u_j` of the queue and the softmax over them:

    .. math:: \ell_i = -\sum_j \mathrm{softmax}(k_i \cdot u_j / \tau_t)_j
              \log \mathrm{softmax}(q_i \cdot u_j / \tau_s)_j

    There is no N x K matrix: with :math:`m_i = \sum_j \mathrm{softmax}(k_i \cdot u_j / \tau_t)_j
    u_j`, formed in one pass over the queue, :math:`\ell_i = \log \sum_j \exp(q_i \cdot u_j /
    \tau_s) - q_i \cdot m_i / \tau_s`, and the other pass forms the gradient along with the sum: the
    queue may be overwritten before ``backward``.

    Args:
        query: Queries of the student (N, D), float64, float32, bfloat16 or float16. All arithmetic
            is in float32 (float64 for float64).
        key: Keys of the teacher (N, D), of the dtype of ``query``; no gradient. They are no columns
            of the softmax themselves.
        queue: Earlier keys (K, D), of the dtype of ``query``; no gradient. Float32 and float64 are
            read in place, half types are cast first.
        student_temperature: Positive number or tensor with one element; may require grad.
        teacher_temperature: Positive number or tensor with one element; no gradient.
        normalize: Scale all rows to unit norm first; rows with norm below 1e-12 count as zero.
        weight: Weight of each query, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` = sum(w * loss) / sum(w).
        gather_distributed: Whether the mean or sum is that of the queries of all ranks, each of
            which gives its own; the queue is the same on all. See `sslkern.parallel` for what that
            means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or value, or a key, queue or teacher_temperature that
            requires grad.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> query = torch.eye(3, requires_grad=True)
        >>> loss = sslkern.ressl_loss(
        ...     query, torch.eye(3), torch.eye(3), student_temperature=1.0, teacher_temperature=0.5
        ... )
        >>> print(f"{loss.item():.6f}")
        0.764459

    Equals: `sslkern.reference.ressl_loss`.

    Source: Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", 2021,
    https://arxiv.org/abs/2107.09282
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def compute() -> Tensor:
        _check_rows(query, key, queue, least=0 if are_many(sharing) else 1)
        check_reduction(reduction, _OP)
        check_row_weight(weight, _OP, {"N": query.shape[0]}, query)
        tau = _temperature(student_temperature, "student_temperature", query)
        teacher_tau = _temperature(teacher_temperature, "teacher_temperature", query)
        check_constant(teacher_tau, "teacher_temperature", _OP)
        if query.shape[0] == 0:
            rows_of = (stand_in(_OP, "query", query), stand_in(_OP, "key", key))
            _rows(*rows_of, queue, tau.detach(), teacher_tau, normalize)
            return no_rows(_OP, "ressl_loss", query, tau)
        return _rows(query, key, queue, tau, teacher_tau, normalize)

    shards = {"query": query, "key": key}
    options = {
        "student_temperature": student_temperature,
        "teacher_temperature": teacher_temperature,
        **whole("queue", queue),
        "normalize": normalize,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    rows, processes = rows_of_ranks(_OP, sharing, shards, options, compute)
    return reduce_rows(processes, rows, weight, reduction)


def _rows(
    query: Tensor, key: Tensor, queue: Tensor, tau: Tensor, teacher_tau: Tensor, normalize: bool
) -> Tensor:
    """The loss of each query."""
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), queue.dtype)
    queue = queue.to(torch.promote_types(dtype, torch.float32))
    scale, invalid = _column_scale(queue, normalize)
    x = _scaled_rows(query, tau, normalize, queue.dtype)
    with torch.no_grad():
        y = _scaled_rows(key, teacher_tau, normalize, queue.dtype)
        # The gradient of a log-sum-exp is the mean of the columns under its softmax.
        *_, mean, _ = _log_sum_exp(y, queue, scale, form_grad=True)
    form = torch.is_grad_enabled() and x.requires_grad
    loss, *_ = _log_sum_exp(x, queue, scale, form_grad=form)
    return loss - (x * mean).sum(1) + invalid


def _log_sum_exp(x: Tensor, queue: Tensor, scale: Tensor, form_grad: bool) -> tuple[Tensor, ...]:
    """InfoNCE's operator without targets: what it calls the loss is the log-sum-exp."""
    outputs: tuple[Tensor, ...] = torch.ops.sslkern.info_nce_fwd(
        x, queue, None, scale, None, None, None, False, False, 0.0, form_grad
    )
    return outputs


def _column_scale(queue: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """What the operator multiplies the columns by, one over their norms, and a zero.

    The zero is NaN where a norm is no number, and added to the losses: the operator takes positive
    factors alone. Rows that count as zero get the smallest.
    """
    one = torch.ones((), dtype=torch.float64, device=queue.device)
    if not normalize:
        return one, torch.zeros_like(one, dtype=queue.dtype)
    # A float64 sum of float32 squares would copy the queue.
    norm = torch.linalg.vector_norm(queue, dim=1).double()
    usable = (norm >= NORM_EPS) & (norm < float("inf"))
    smallest = torch.finfo(torch.float64).tiny
    scale = torch.where(usable, 1 / norm, smallest)
    return scale, (0 * norm.sum()).to(queue.dtype)


def _scaled_rows(z: Tensor, tau: Tensor, normalize: bool, dtype: torch.dtype) -> Tensor:
    """Rows over the temperature, of unit norm first if asked for; in float64 no norm overflows."""
    z = z.double()
    z = normalize_rows(z) if normalize else z
    return (z / tau.double().reshape(())).to(dtype)


def _temperature(value: float | Tensor, name: str, like: Tensor) -> Tensor:
    """A checked temperature as a tensor."""
    tau = as_scalar_tensor(value, name, _OP, like)
    check_positive(tau, name, _OP)
    check_one_element(tau, name, _OP)
    return tau


def _check_rows(query: Tensor, key: Tensor, queue: Tensor, least: int) -> None:
    """The checks of the operator, in the names of the caller."""
    check_tensor(query, "query", _OP)
    check_constant(key, "key", _OP)
    check_constant(queue, "queue", _OP)
    check_rows(query, "query", _OP, "ND", least=least)
    check_rows(key, "key", _OP, "ND", least=least)
    check_rows(queue, "queue", _OP, "KD", least=1)
    check_same_kind(key, "key", query, "query", _OP)
    check_same_kind(queue, "queue", query, "query", _OP)
    if key.shape != query.shape:
        refuse(
            _OP, "key", f"of the shape of query, {tuple(query.shape)}", f"shape {tuple(key.shape)}"
        )
    if queue.shape[1] != query.shape[1]:
        refuse(
            _OP,
            "queue",
            f"of shape (K, D) with the D of query, {query.shape[1]}",
            f"shape {tuple(queue.shape)}",
        )
