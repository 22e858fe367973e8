"""Barlow Twins: the public function, and the shapes and gradient of its operator."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    check_positive_number,
    check_same_device,
    check_tensor,
    refuse_second_derivative,
)
from sslkern.ops._gram import (
    as_number,
    check_kept,
    check_part,
    check_statistics,
    gram_elements,
    takes_products_of_rows,
    wants_gradient,
)
from sslkern.parallel.cross_correlation import correlation_terms
from sslkern.parallel.processes import Sharing, are_many, meet, promoted
from sslkern.parallel.whole import check_total
from sslkern.reference.cross_correlation import BarlowTwinsTerms

_OP = "cross_correlation"


@overload
def barlow_twins_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = ...,
    *,
    eps: float = ...,
    scale: float = ...,
    statistics: str = ...,
    gather_distributed: bool = ...,
    process_group: dist.ProcessGroup | None = ...,
    check: bool = ...,
    return_terms: Literal[False] = ...,
) -> Tensor: ...


@overload
def barlow_twins_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = ...,
    *,
    eps: float = ...,
    scale: float = ...,
    statistics: str = ...,
    gather_distributed: bool = ...,
    process_group: dist.ProcessGroup | None = ...,
    check: bool = ...,
    return_terms: Literal[True],
) -> tuple[Tensor, BarlowTwinsTerms]: ...


def barlow_twins_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = 5e-3,
    *,
    eps: float = 1e-5,
    scale: float = 1.0,
    return_terms: bool = False,
    statistics: str = "global",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor | tuple[Tensor, BarlowTwinsTerms]:
    r"""Distance of the cross-correlation of two views from the identity (Barlow Twins).

    With the columns :math:`a_i` of ``z_a`` and :math:`b_j` of ``z_b``, shifted to mean 0 and
    divided by :math:`\sqrt{\mathrm{var} + \epsilon}`, the variance being the biased one, and
    :math:`C_{ij} = a_i \cdot b_j / N`:

    .. math:: \ell = s \Big( \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2 \Big)

    Where D > N the D x D matrix C never exists, for
    :math:`\sum_{ij} C_{ij}^2 = \langle a a^T, b b^T \rangle / N^2` needs products of rows alone:
    6 N^2 D operations for loss and gradients in place of 6 N D^2. A column that is constant counts
    as a column of zeros. In one process the result does not depend on the number of threads, to
    the bit.

    Args:
        z_a: Embeddings of the first view, (N, D), float64, float32, bfloat16 or float16, not
            normalised. Half types are read as they are; all arithmetic is in float32 (float64 for
            float64), the statistics of the columns in float64. At least two rows.
        z_b: Embeddings of the second view, like ``z_a``. Under autocast differing dtypes are
            promoted to the wider one.
        lambda_param: Weight of the elements beside the diagonal. The paper's is 0.005, that of its
            code 0.0051.
        eps: Added to the variances; positive.
        scale: Factor of the loss: solo-learn's is 0.025.
        return_terms: Whether to return the two sums as well.
        statistics: With ``gather_distributed``, the rows that means and variances are taken over:
            ``"global"``, those of all ranks, as synchronised batch normalisation does, or
            ``"local"``, those of each rank. The products are of all rows in any case.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows and
            takes a share of the products; see `sslkern.parallel` for what that means for results
            and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, float64 for float64 inputs, else float32; with ``return_terms`` also the sums
        ``(on_diagonal, off_diagonal)``, without weights and without gradient.

    Raises:
        ValueError: For a wrong shape, device or value.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> z = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
        >>> z_a = z.clone().requires_grad_()
        >>> loss = sslkern.barlow_twins_loss(z_a, -z)
        >>> print(f"{loss.item():.4f}")
        11.9999
        >>> loss.backward()

    Equals: `sslkern.reference.barlow_twins_loss`.

    Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021,
    https://arxiv.org/abs/2103.03230
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_tensor(z_a, "z_a", _OP)
        check_tensor(z_b, "z_b", _OP)
        as_number(lambda_param, "lambda_param", _OP)
        check_positive_number(eps, "eps", _OP)
        as_number(scale, "scale", _OP)
        check_statistics(statistics, sharing, _OP)
        check_part(z_a, "z_a", statistics == "local" and are_many(sharing), _OP)

    options = {
        "lambda_param": lambda_param,
        "eps": eps,
        "scale": scale,
        "statistics": statistics,
        "return_terms": return_terms,
    }
    processes = meet(_OP, sharing, {"z_a": z_a, "z_b": z_b}, options, check_arguments)
    if processes is None:
        keep = wants_gradient(z_a, z_b)
        loss, terms, _, _ = torch.ops.sslkern.cross_correlation_fwd(
            z_a, z_b, float(lambda_param), float(eps), "auto", keep
        )
        on, off, _ = terms.unbind()
    else:
        check_total(processes, "z_a")
        a, b = promoted(z_a, z_b)
        on, off = correlation_terms(processes, a, b, float(eps), statistics == "local")
        loss = (on + float(lambda_param) * off).to(accumulate_dtype(a))
    loss = loss if scale == 1 else float(scale) * loss
    if not return_terms:
        return loss  # type: ignore[no-any-return]
    return loss, BarlowTwinsTerms(*(x.detach().to(loss.dtype) for x in (on, off)))


def _fake_fwd(
    z_a: Tensor, z_b: Tensor, lambda_param: float, eps: float, route: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_same_device(z_b, "z_b", z_a, "z_a", _OP)
    rows, dims = z_a.shape
    accumulate = accumulate_dtype(z_a)
    gram = takes_products_of_rows(route, z_a)
    elements = 2 * gram_elements(rows) if gram else gram_elements(dims)
    return (
        z_a.new_empty((), dtype=accumulate),
        z_a.new_empty((3,), dtype=torch.float64),
        z_a.new_empty((5, dims), dtype=torch.float64),
        z_a.new_empty((elements if keep else 0,), dtype=accumulate),
    )


def _fake_bwd(
    grad_loss: Tensor,
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float,
    eps: float,
    route: str,
    terms: Tensor,
    columns: Tensor,
    products: Tensor,
    need_a: bool,
    need_b: bool,
) -> tuple[Tensor, Tensor]:
    rows, dims = z_a.shape
    return z_a.new_empty((rows if need_a else 0, dims)), z_a.new_empty(
        (rows if need_b else 0, dims)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    check_kept(_OP, inputs[5], ctx.needs_input_grad[:2])
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[2:5]
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    z_a, z_b, *saved = ctx.saved_tensors
    need = ctx.needs_input_grad[:2]
    grads = torch.ops.sslkern.cross_correlation_bwd(
        grad_loss, z_a, z_b, *ctx.options, *saved, *need
    )
    return (*(g if wanted else None for g, wanted in zip(grads, need, strict=True)), *[None] * 4)


_extension.register_fake("sslkern::cross_correlation_fwd", _fake_fwd)
_extension.register_fake("sslkern::cross_correlation_bwd", _fake_bwd)
torch.library.register_autograd(
    "sslkern::cross_correlation_fwd", _backward, setup_context=_setup_context
)
refuse_second_derivative(_OP, "barlow_twins_loss", "cross_correlation_bwd")
