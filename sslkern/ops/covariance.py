"""VICReg: the public functions, and the shapes and gradient of their operator."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    check_positive_number,
    check_same_device,
    check_tensor,
    refuse,
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
from sslkern.parallel.covariance import (
    all_centered,
    covariance_term,
    invariance_term,
    mean_of_ranks,
    variance_term,
)
from sslkern.parallel.processes import Processes, Sharing, are_many, meet, promoted
from sslkern.parallel.rows import no_rows
from sslkern.parallel.whole import check_total
from sslkern.reference._common import to_working_dtype
from sslkern.reference.covariance import VICRegTerms

_OP = "covariance"

VARIANTS = ("official", "solo", "vibcreg")
EPS = 1e-4


@overload
def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = ...,
    mu_param: float = ...,
    nu_param: float = ...,
    *,
    eps: float = ...,
    variant: str = ...,
    statistics: str = ...,
    gather_distributed: bool = ...,
    process_group: dist.ProcessGroup | None = ...,
    check: bool = ...,
    return_terms: Literal[False] = ...,
) -> Tensor: ...


@overload
def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = ...,
    mu_param: float = ...,
    nu_param: float = ...,
    *,
    eps: float = ...,
    variant: str = ...,
    statistics: str = ...,
    gather_distributed: bool = ...,
    process_group: dist.ProcessGroup | None = ...,
    check: bool = ...,
    return_terms: Literal[True],
) -> tuple[Tensor, VICRegTerms]: ...


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_param: float = 25.0,
    mu_param: float = 25.0,
    nu_param: float = 1.0,
    *,
    eps: float = EPS,
    variant: str = "official",
    return_terms: bool = False,
    statistics: str = "global",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor | tuple[Tensor, VICRegTerms]:
    r"""Invariance, variance and covariance of two views (VICReg), in one pass over each.

    With the mean squared difference :math:`s` of all elements, the hinge :math:`v` of
    `variance_loss` and the covariances :math:`c` of `covariance_loss`:

    .. math:: \ell = \lambda \, s(z_a, z_b) + \mu \, \tfrac{1}{2} [v(z_a) + v(z_b)]
              + \nu \, [c(z_a) + c(z_b)]

    Where D > N no D x D matrix exists: products of rows hold the sum of the squared covariances.
    In one process the result does not depend on the number of threads, to the bit.

    Args:
        z_a: Embeddings of the first view, (N, D), float64, float32, bfloat16 or float16, not
            normalised. Half types are read as they are; all arithmetic is in float32 (float64 for
            float64), the statistics of the columns in float64. At least two rows.
        z_b: Embeddings of the second view, like ``z_a``. Under autocast differing dtypes are
            promoted to the wider one.
        lambda_param: Weight of the invariance.
        mu_param: Weight of the variance.
        nu_param: Weight of the covariance.
        eps: Added to the variances; positive.
        variant: Which of the forms that are in use. ``"official"``: as above and in the authors'
            code. ``"solo"``: the variance without the half, as in the paper and in solo-learn.
            ``"vibcreg"``: also without it, and the covariance that of normalised columns; its
            authors' weights are 25, 25 and 200.
        return_terms: Whether to return the three terms as well.
        statistics: With ``gather_distributed``, the rows that variances and covariances are taken
            over: ``"global"``, those of all ranks, or ``"local"``, those of each rank; the loss is
            then the mean of theirs, with the weight of their rows.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows and
            takes a share of the products; see `sslkern.parallel` for what that means for results
            and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, float64 for float64 inputs, else float32; with ``return_terms`` also
        ``(invariance, variance, covariance)`` as the variant has them, without weights and without
        gradient.

    Raises:
        ValueError: For a wrong shape, device, value or variant.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> z_a = torch.ones(4, 3, requires_grad=True)
        >>> loss, terms = sslkern.vicreg_loss(z_a, torch.ones(4, 3), return_terms=True)
        >>> print(f"{loss.item():.2f} = 25 * {terms.variance.item():.2f}")
        24.75 = 25 * 0.99
        >>> loss.backward()

    Equals: `sslkern.reference.vicreg_loss`.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906; vibcreg: Lee and Aune,
    "VIbCReg: Variance-Invariance-better-Covariance Regularization for Self-Supervised Learning on
    Time Series", 2021, https://arxiv.org/abs/2109.00783
    """
    sharing = Sharing(gather_distributed, process_group, check)
    local = statistics == "local"
    weights = {"lambda_param": lambda_param, "mu_param": mu_param, "nu_param": nu_param}

    def check_arguments() -> None:
        check_tensor(z_a, "z_a", _OP)
        check_tensor(z_b, "z_b", _OP)
        check_variant(variant)
        check_positive_number(eps, "eps", _OP)
        for name, value in weights.items():
            as_number(value, name, _OP)
        check_statistics(statistics, sharing, _OP)
        check_part(z_a, "z_a", local and are_many(sharing), _OP)

    options = {
        **weights,
        "eps": eps,
        "variant": variant,
        "statistics": statistics,
        "return_terms": return_terms,
    }
    processes = meet(_OP, sharing, {"z_a": z_a, "z_b": z_b}, options, check_arguments)
    share = 0.5 if variant == "official" else 1.0
    factors = (float(lambda_param), share * mu_param, float(nu_param))
    how = (float(eps), variant == "vibcreg", return_terms or nu_param != 0)
    if processes is None:
        loss, terms = _of_own_rows(z_a, z_b, factors, how)
    else:
        check_total(processes, "z_a")
        of_ranks = _mean_of_ranks if local else _of_all_rows
        a, b = promoted(z_a, z_b)
        loss, terms = of_ranks(processes, a, b, factors, how)
    if not return_terms:
        return loss
    s, v, c = terms.detach().to(loss.dtype).unbind()
    return loss, VICRegTerms(s, share * v, c)


Factors = tuple[float, float, float]
How = tuple[float, bool, bool]  # eps, whether columns are normalised, with covariance or without


def _of_own_rows(z_a: Tensor, z_b: Tensor, factors: Factors, how: How) -> tuple[Tensor, Tensor]:
    """The loss, and the three terms without weights, (3,) float64."""
    loss, terms, _, _ = torch.ops.sslkern.covariance_fwd(
        z_a, z_b, *factors, *how, "auto", wants_gradient(z_a, z_b)
    )
    return loss, terms[:3]


def _of_all_rows(
    processes: Processes, z_a: Tensor, z_b: Tensor, factors: Factors, how: How
) -> tuple[Tensor, Tensor]:
    """The same of the rows of all ranks."""
    eps, normalize, with_covariance = how
    views = [all_centered(processes, "z_a", z) for z in (z_a, z_b)]
    invariance = invariance_term(processes, z_a, z_b)
    variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
    for x in views:
        variance = variance + variance_term(processes, x, eps)
        if with_covariance:
            covariance = covariance + covariance_term(processes, x, normalize)
    terms = torch.stack([invariance, variance, covariance])
    return (terms * terms.new_tensor(factors)).sum().to(accumulate_dtype(z_a)), terms


def _mean_of_ranks(
    processes: Processes, z_a: Tensor, z_b: Tensor, factors: Factors, how: How
) -> tuple[Tensor, Tensor]:
    """The mean of what each rank's own rows give."""
    if len(z_a) == 0:
        loss = no_rows(_OP, "vicreg_loss", z_a, z_b).sum()
        own = torch.zeros(4, dtype=torch.float64, device=z_a.device) + loss
    else:
        loss, terms = _of_own_rows(z_a, z_b, factors, how)
        own = torch.cat([loss.double().reshape(1), terms])
    of_all = mean_of_ranks(processes, "z_a", own)
    return of_all[0].to(accumulate_dtype(z_a)), of_all[1:]


def check_variant(variant: str) -> None:
    """Reject an unknown variant."""
    if variant not in VARIANTS:
        refuse(_OP, "variant", "'official', 'solo' or 'vibcreg'", repr(variant))


def variance_loss(
    z: Tensor,
    *,
    eps: float = EPS,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""What the standard deviations of the columns lack to 1, the variance term of VICReg.

    With the unbiased variances of the columns:

    .. math:: v = \frac{1}{D} \sum_j \max(0, 1 - \sqrt{\mathrm{var}_j + \epsilon})

    Args:
        z: Embeddings of one view, (N, D), at least two rows; see `vicreg_loss`.
        eps: Added to the variances; positive.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape or value.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated in one process; over ranks
            it may be.

    Example:
        >>> import torch, sslkern
        >>> print(f"{sslkern.variance_loss(torch.ones(4, 3)).item():.2f}")
        0.99

    Equals: `sslkern.reference.variance_loss`.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_tensor(z, "z", _OP)
        check_positive_number(eps, "eps", _OP)

    processes = meet(_OP, sharing, {"z": z}, {"the term": "variance", "eps": eps}, check_arguments)
    if processes is not None:
        check_total(processes, "z")
        term = variance_term(processes, all_centered(processes, "z", z), float(eps))
        return term.to(accumulate_dtype(z))
    options = (0.0, 1.0, 0.0, float(eps), False, False, "auto", wants_gradient(z))
    loss: Tensor = torch.ops.sslkern.covariance_fwd(z, None, *options)[0]
    return loss


def covariance_loss(
    z: Tensor,
    *,
    normalize_columns: bool = False,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Squared covariances of different columns, the covariance term of VICReg.

    With the columns :math:`x_i` less their means and :math:`C_{ij} = x_i \cdot x_j / (N - 1)`:

    .. math:: c = \frac{1}{D} \sum_{i \ne j} C_{ij}^2

    Args:
        z: Embeddings of one view, (N, D), at least two rows; see `vicreg_loss`.
        normalize_columns: Scale the columns :math:`x_i` to unit norm first, and take
            :math:`\frac{1}{D^2} \sum_{i \ne j} (x_i \cdot x_j)^2`, as VIbCReg does. Columns whose
            norm is below 1e-12 count as zero vectors and get a zero gradient.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> z = torch.tensor([[1.0, 1], [-1, -1], [1, 1], [-1, -1]])
        >>> print(f"{sslkern.covariance_loss(z).item():.4f}")
        1.7778
        >>> print(f"{sslkern.covariance_loss(z, normalize_columns=True).item():.4f}")
        0.5000

    Equals: `sslkern.reference.covariance_loss`.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906
    """
    sharing = Sharing(gather_distributed, process_group, check)
    described = {"the term": "covariance", "normalize_columns": normalize_columns}
    processes = meet(_OP, sharing, {"z": z}, described, lambda: check_tensor(z, "z", _OP))
    if processes is not None:
        check_total(processes, "z")
        x = all_centered(processes, "z", z)
        term = covariance_term(processes, x, bool(normalize_columns))
        return term.to(accumulate_dtype(z))
    options = (0.0, 0.0, 1.0, EPS, bool(normalize_columns), True, "auto", wants_gradient(z))
    loss: Tensor = torch.ops.sslkern.covariance_fwd(z, None, *options)[0]
    return loss


def invariance_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Mean squared difference of two views, the invariance term of VICReg.

    .. math:: s = \frac{1}{N D} \sum_{nj} (a_{nj} - b_{nj})^2

    Args:
        z_a: Embeddings of the first view, (N, D); see `vicreg_loss`.
        z_b: Embeddings of the second view, like ``z_a``.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, float64 for float64 inputs, else float32. It is PyTorch's
        ``torch.nn.functional.mse_loss`` and may be differentiated again.

    Raises:
        ValueError: For shapes that differ.
        TypeError: For what is no tensor.

    Example:
        >>> import torch, sslkern
        >>> print(sslkern.invariance_loss(torch.ones(4, 3), torch.zeros(4, 3)).item())
        1.0

    Equals: `sslkern.reference.invariance_loss`.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", 2022, https://arxiv.org/abs/2105.04906
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_tensor(z_a, "z_a", _OP)
        check_tensor(z_b, "z_b", _OP)
        check_same_device(z_b, "z_b", z_a, "z_a", _OP)
        if z_a.shape != z_b.shape:
            shapes = tuple(z_a.shape), tuple(z_b.shape)
            refuse(_OP, "z_b", f"of the shape of z_a, {shapes[0]}", f"shape {shapes[1]}")

    shards = {"z_a": z_a, "z_b": z_b}
    processes = meet(_OP, sharing, shards, {"the term": "invariance"}, check_arguments)
    if processes is not None:
        a, b = promoted(z_a, z_b)
        return invariance_term(processes, a, b).to(accumulate_dtype(a))
    return F.mse_loss(to_working_dtype(z_a), to_working_dtype(z_b))


def _fake_fwd(
    z_a: Tensor,
    z_b: Tensor | None,
    lambda_param: float,
    mu_param: float,
    nu_param: float,
    eps: float,
    normalize_columns: bool,
    with_covariance: bool,
    route: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if z_b is not None:
        check_same_device(z_b, "z_b", z_a, "z_a", _OP)
    rows, dims = z_a.shape
    views = 1 if z_b is None else 2
    accumulate = accumulate_dtype(z_a)
    kept = views * gram_elements(rows if takes_products_of_rows(route, z_a) else dims)
    return (
        z_a.new_empty((), dtype=accumulate),
        z_a.new_empty((4,), dtype=torch.float64),
        z_a.new_empty((3 * views, dims), dtype=torch.float64),
        z_a.new_empty((kept if keep and with_covariance else 0,), dtype=accumulate),
    )


def _fake_bwd(
    grad_loss: Tensor,
    z_a: Tensor,
    z_b: Tensor | None,
    lambda_param: float,
    mu_param: float,
    nu_param: float,
    eps: float,
    normalize_columns: bool,
    with_covariance: bool,
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
    check_kept(_OP, inputs[9], ctx.needs_input_grad[:2])
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[2:9]
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    z_a, z_b, *saved = ctx.saved_tensors
    need = ctx.needs_input_grad[:2]
    grads = torch.ops.sslkern.covariance_bwd(grad_loss, z_a, z_b, *ctx.options, *saved, *need)
    return (*(g if wanted else None for g, wanted in zip(grads, need, strict=True)), *[None] * 8)


_extension.register_fake("sslkern::covariance_fwd", _fake_fwd)
_extension.register_fake("sslkern::covariance_bwd", _fake_bwd)
torch.library.register_autograd("sslkern::covariance_fwd", _backward, setup_context=_setup_context)
refuse_second_derivative(_OP, "vicreg_loss", "covariance_bwd")
