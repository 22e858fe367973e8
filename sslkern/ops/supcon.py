"""Contrast by label: the public functions, and the shapes and gradient of their operator."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops import _extension
from sslkern.ops._common import (
    accumulate_dtype,
    as_scalar_tensor,
    check_flags,
    check_floating,
    check_one_number,
    check_positive_number,
    check_reduction,
    check_row_weight,
    check_same_device,
    check_same_dtype,
    check_tensor,
    refuse,
    refuse_second_derivative,
)
from sslkern.parallel.agreement import presence
from sslkern.parallel.gradients import reduce_over_ranks
from sslkern.parallel.processes import Processes, Sharing, are_many, meet
from sslkern.parallel.rows import flat_rows, mean_by_shares, reduce_rows
from sslkern.parallel.supcon import Weights, class_sums, dcl_rows, mean_potential
from sslkern.reference._common import normalize_rows, ordered_sum, reduce_loss, to_working_dtype

_OP = "supcon"
VARIANTS = ("out", "in", "in_sum", "pairwise")


class ClassStatistics(NamedTuple):
    """What each of N rows sums over the others, (N,) float64; see csrc/contract/supcon.h."""

    lse_negative: Tensor
    lse_positive: Tensor
    sum_positive: Tensor
    pair_loss: Tensor
    positives: Tensor  # their number, int64


def class_statistics(
    z: Tensor, labels: Tensor, temperature: Tensor, *, normalize: bool, pairs: bool = False
) -> ClassStatistics:
    """Log-sum-exps and sums of each row of ``z`` over its class and over all others."""
    lse_negative, lse_positive, sum_positive, pair_loss, _, positives, _, _ = (
        torch.ops.sslkern.supcon_fwd(z, labels, temperature, normalize, pairs)
    )
    return ClassStatistics(lse_negative, lse_positive, sum_positive, pair_loss, positives)


def supcon_loss(
    z: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    *,
    variant: str = "out",
    base_temperature: float | None = None,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Contrastive loss with positives by label, without an N x N matrix or mask.

    With :math:`s_{ij} = \hat z_i \cdot \hat z_j / \tau`, the positives :math:`P_i` (the other rows
    of the label of i), the negatives :math:`N_i` and :math:`D_i = \sum_{j \ne i} \exp(s_{ij})`:

    .. math::
        \text{out:}\quad & \ell_i = \frac{1}{|P_i|} \sum_{p \in P_i} (\log D_i - s_{ip}) \\
        \text{in:}\quad & \ell_i = \log D_i
            - \log \Big( \frac{1}{|P_i|} \sum_{p \in P_i} \exp(s_{ip}) \Big) \\
        \text{in\_sum:}\quad & \ell_i = \log D_i - \log \sum_{p \in P_i} \exp(s_{ip}) \\
        \text{pairwise:}\quad & \ell_i = \sum_{p \in P_i} \log \Big( 1 +
            \sum_{n \in N_i} \exp(s_{in} - s_{ip}) \Big)

    Rows without a positive have loss 0 and take no part in the mean. "pairwise" has one term per
    positive pair; its mean is over pairs, and no other positive is in the denominator of a pair.

    Args:
        z: Embeddings (N, D), or of V views of each sample, (B, V, D) with N = B V. float64,
            float32, bfloat16 or float16; half types are read as they are, all arithmetic is in
            float32 (float64 for float64).
        labels: Label of each row, (N,) int64, or of each sample, (B,). May be left out for
            (B, V, D): the views of one sample are then each other's positives.
        temperature: Positive number, or a tensor with one element, which may require grad.
        variant: ``"out"`` and ``"in"`` are the two losses of the paper; ``"in_sum"`` is "in"
            without its 1/|P|, as in solo-learn; ``"pairwise"`` is the NTXentLoss of
            pytorch-metric-learning.
        base_temperature: Where given, the loss is multiplied by temperature / base_temperature,
            as in the code that accompanies the paper, whose default is 0.07.
        normalize: Scale every row to unit norm first; rows with norm below 1e-12 count as zero.
        weight: Weight of each row, (N,); may require grad.
        reduction: ``"none"`` for the N losses, ``"sum"``, or ``"mean"`` over the rows that have a
            positive, sum(w * loss) / sum(w); over the pairs for "pairwise". Without any positive
            the mean is 0, with a zero gradient.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows and
            their labels; see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all rows while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (N,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, variant, reduction or temperature, and on all ranks
            where they differ in what must be the same.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> z = torch.eye(4, requires_grad=True)
        >>> loss = sslkern.supcon_loss(z, torch.tensor([0, 0, 1, 1]), temperature=1.0)
        >>> print(f"{loss.item():.6f}")
        1.098612
        >>> loss.backward()

    Equals: `sslkern.reference.supcon_loss`.

    Source: Khosla et al., "Supervised Contrastive Learning", 2020,
    https://arxiv.org/abs/2004.11362
    """
    sharing = Sharing(gather_distributed, process_group, check, strategy)

    def check_arguments() -> None:
        check_tensor(z, "z", _OP)
        check_reduction(reduction, _OP)
        check_flags(_OP, normalize=normalize)
        check_variant(variant)
        if base_temperature is not None:
            check_positive_number(base_temperature, "base_temperature", _OP)
        _check_labels(z, labels)
        if z.dim() in (2, 3):
            check_row_weight(weight, _OP, {"N": z.shape[:-1].numel()}, z)
        if are_many(sharing):  # what the operator would see on this rank alone
            _check_classes(z, labels)
            check_one_number(temperature, "temperature", _OP, z)

    options = {
        "temperature": temperature,
        "variant": variant,
        "base_temperature": base_temperature,
        "normalize": normalize,
        "reduction": reduction,
        "whether there are labels": labels is not None,
        "the number of views": z.shape[1] if isinstance(z, Tensor) and z.dim() == 3 else None,
        "the weight of rows": presence(weight),
    }
    rows = flat_rows(z) if isinstance(z, Tensor) and z.dim() == 3 else z
    processes = meet(_OP, sharing, {"z": rows}, options, check_arguments)
    tau = as_scalar_tensor(temperature, "temperature", _OP, z)
    classes = _row_labels(processes, z, labels)
    pairs = variant == "pairwise"
    if processes is None:
        stats = class_statistics(rows, classes, tau, normalize=normalize, pairs=pairs)
    else:
        negative, positive = class_sums(processes, rows, classes, tau, normalize, pairs)
        stats = ClassStatistics(negative, *positive)
    loss = _variant_rows(stats, variant)
    if base_temperature is not None:
        loss = loss * (tau.to(loss.dtype).reshape(()) / base_temperature)
    terms = stats.positives if pairs else stats.positives > 0
    return _reduce(processes, loss, terms, weight, reduction).to(accumulate_dtype(z))


def dcl_loss(
    z_a: Tensor,
    z_b: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    weight_fn: Weights | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Decoupled contrastive loss: NT-Xent without the positive in its denominator.

    With the rows :math:`Z = [z_a; z_b]`, :math:`s_{ij} = \hat z_i \cdot \hat z_j / \tau` and the
    partner :math:`\pi(i) = (i + B) \bmod 2B`:

    .. math:: \ell_i = \log \sum_{j \ne i, \pi(i)} \exp(s_{ij}) - w_i s_{i, \pi(i)}

    Args:
        z_a: Embeddings of the first view, (B, D) with B > 1, float64, float32, bfloat16 or float16.
        z_b: Embeddings of the second view, like ``z_a``.
        temperature: Positive number, or a tensor with one element, which may require grad.
        weight_fn: Gives the weights w of the positives of one direction, (B,), from the rows of
            both views as they enter the similarities; called for (a, b) and for (b, a). Its
            gradient is followed where it has one. See `sslkern.losses.DCLWLoss`.
        normalize: Scale every row to unit norm first; rows with norm below 1e-12 count as zero.
        reduction: ``"none"`` for the 2B losses in the order [a; b], ``"sum"`` or ``"mean"``.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients. ``weight_fn`` is
            then called with the rows of all ranks.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all rows while it computes; ``"ring"``: its own
            and two other ranks', unless there is a ``weight_fn``.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (2B,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, reduction or temperature.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.dcl_loss(torch.eye(3), torch.eye(3), temperature=1.0)
        >>> print(f"{loss.item():.6f}")
        0.386294

    Equals: `sslkern.reference.dcl_loss`.

    Source: Yeh et al., "Decoupled Contrastive Learning", 2021, https://arxiv.org/abs/2110.06848
    """

    def check_arguments() -> None:
        check_tensor(z_a, "z_a", _OP)
        check_tensor(z_b, "z_b", _OP)
        check_reduction(reduction, _OP)
        check_flags(_OP, normalize=normalize)
        if are_many(sharing):
            check_one_number(temperature, "temperature", _OP, z_a)

    def weights(function: Weights, x: Tensor, y: Tensor) -> Tensor:
        x, y = to_working_dtype(x), to_working_dtype(y)
        if normalize:
            x, y = normalize_rows(x), normalize_rows(y)
        return _weights(function, x, y)

    sharing = Sharing(gather_distributed, process_group, check, strategy)
    options = {
        "temperature": temperature,
        "weight_fn": weight_fn is not None,
        "normalize": normalize,
        "reduction": reduction,
    }
    processes = meet(_OP, sharing, {"z_a": z_a, "z_b": z_b}, options, check_arguments)
    tau = as_scalar_tensor(temperature, "temperature", _OP, z_a)
    if processes is not None:
        of_positives = None if weight_fn is None else functools.partial(weights, weight_fn)
        rows = dcl_rows(processes, z_a, z_b, tau, normalize, of_positives)
        return reduce_over_ranks(processes, rows, None, reduction)
    _check_views(z_a, z_b)
    index = torch.arange(z_a.shape[0], device=z_a.device).repeat(2)
    z = torch.cat([z_a, z_b])
    stats = class_statistics(z, index, tau, normalize=normalize)
    positive = stats.sum_positive
    if weight_fn is not None:
        positive = positive * torch.cat(
            [weights(weight_fn, z_a, z_b), weights(weight_fn, z_b, z_a)]
        )
    return reduce_loss(stats.lse_negative - positive, None, reduction).to(accumulate_dtype(z))


def uniformity(
    x: Tensor,
    t: float | Tensor = 2.0,
    *,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""How evenly the rows spread over the sphere, without an N x N matrix; lower is more even.

    The logarithm of the mean Gaussian potential of all pairs of rows:

    .. math:: \log \frac{2}{N (N - 1)} \sum_{i < j} \exp(-t \, |\hat x_i - \hat x_j|^2)

    It is 0 where all rows point the same way, and :math:`-2t` where all are orthogonal to each
    other. Rows whose norm is below 1e-12 have no direction: they count as orthogonal to every row
    and get a zero gradient.

    Args:
        x: Embeddings (N, D) with N > 1, scaled to unit norm here; float64, float32, bfloat16 or
            float16. Half types are read as they are; all arithmetic is in float32 (float64 for
            float64).
        t: Positive number, or a tensor with one element, which may require grad.
        gather_distributed: Whether the pairs are those of the rows of all ranks; see
            `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all rows while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or t.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> print(f"{sslkern.uniformity(torch.eye(3)).item():.6f}")
        -4.000000

    Equals: `sslkern.reference.uniformity`.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", 2020, https://arxiv.org/abs/2005.10242
    """
    sharing = Sharing(gather_distributed, process_group, check, strategy)

    def check_arguments() -> None:
        check_tensor(x, "x", _OP)
        check_one_number(t, "t", _OP, x)
        check_floating(x, "x", _OP)
        if x.dim() != 2 or (x.shape[0] < 2 and not are_many(sharing)):
            refuse(_OP, "x", "of shape (N, D) with N > 1", f"shape {tuple(x.shape)}")

    processes = meet(_OP, sharing, {"x": x}, {"t": t}, check_arguments)
    scale = as_scalar_tensor(t, "t", _OP, x).to(torch.float64).reshape(())
    if processes is not None:
        return mean_potential(processes, x, scale).to(accumulate_dtype(x))
    rows = x.shape[0]
    each_its_own = torch.arange(rows, device=x.device)
    # |x - y|^2 = 2 - 2 x.y for unit rows, so -t |x - y|^2 = x.y / tau - 2 t with tau = 1 / (2 t).
    stats = class_statistics(x, each_its_own, 0.5 / scale, normalize=True)
    total = (stats.lse_negative - math.log(rows - 1)).logsumexp(0) - math.log(rows)
    return (total - 2 * scale).to(accumulate_dtype(x))


def check_variant(variant: str) -> None:
    """Refuse an unknown variant of SupCon."""
    if variant not in VARIANTS:
        refuse(_OP, "variant", f"one of {', '.join(map(repr, VARIANTS))}", repr(variant))


def _check_labels(z: Tensor, labels: Tensor | None) -> None:
    """One for each sample of views (B, V, D); the operator checks those of rows (N, D)."""
    if labels is not None:
        check_tensor(labels, "labels", _OP)
    if z.dim() != 3:
        if labels is None:
            refuse(_OP, "labels", "given where z is not of shape (B, V, D)", "None")
    elif labels is not None and labels.shape != z.shape[:1]:
        refuse(_OP, "labels", f"of shape (B,) = ({z.shape[0]},)", f"shape {tuple(labels.shape)}")


def _check_classes(z: Tensor, labels: Tensor | None) -> None:
    """The checks of the operator."""
    if labels is None:
        return
    if labels.dtype != torch.int64:
        raise TypeError(
            f"sslkern::{_OP}: expected labels to be of dtype torch.int64, got {labels.dtype}"
        )
    if labels.shape != z.shape[:1]:
        refuse(_OP, "labels", f"of shape (N,) = ({len(z)},)", f"shape {tuple(labels.shape)}")
    check_same_device(labels, "labels", z, "z", _OP)


def _row_labels(processes: Processes | None, z: Tensor, labels: Tensor | None) -> Tensor:
    """A label for each row, from one for each sample; without any samples are their own classes."""
    views = z.shape[1] if z.dim() == 3 else 1
    if labels is None:
        first = 0 if processes is None else processes.offset("z") // views
        labels = torch.arange(first, first + z.shape[0], device=z.device)
    return labels.repeat_interleave(views) if z.dim() == 3 else labels


def _check_views(z_a: Tensor, z_b: Tensor) -> None:
    check_floating(z_a, "z_a", _OP)
    check_floating(z_b, "z_b", _OP)
    check_same_device(z_b, "z_b", z_a, "z_a", _OP)
    if z_a.dim() != 2 or z_a.shape[0] < 2:
        refuse(_OP, "z_a", "of shape (B, D) with B > 1", f"shape {tuple(z_a.shape)}")
    if z_b.shape != z_a.shape:
        refuse(_OP, "z_b", f"of the shape of z_a, {tuple(z_a.shape)}", f"shape {tuple(z_b.shape)}")
    check_same_dtype(z_b, "z_b", z_a, "z_a", _OP)


def _weights(weight_fn: Weights, a: Tensor, b: Tensor) -> Tensor:
    weights = weight_fn(a, b)
    if not isinstance(weights, Tensor) or weights.shape != a.shape[:1]:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        refuse(_OP, "weight_fn", f"a function to a tensor of shape (B,) = ({a.shape[0]},)", got)
    return weights


def _variant_rows(stats: ClassStatistics, variant: str) -> Tensor:
    """Loss of each row, 0 where it has no positive."""
    found = stats.positives > 0
    count = stats.positives.clamp(min=1).to(stats.lse_positive.dtype)
    if variant == "pairwise":
        return stats.pair_loss
    positive = torch.where(found, stats.lse_positive, 0)
    if variant == "out":
        rows = torch.logaddexp(stats.lse_negative, positive) - stats.sum_positive / count
    else:
        over = stats.lse_negative - positive
        rows = torch.logaddexp(over, torch.zeros_like(over))  # softplus cuts off at 20
        rows = rows + count.log() if variant == "in" else rows
    return torch.where(found, rows, 0)


def _reduce(
    processes: Processes | None,
    rows: Tensor,
    terms: Tensor,
    weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """`reduce_rows`, with the mean over the ``terms`` of each row."""
    if reduction != "mean":
        return reduce_rows(processes, rows, weight, reduction)
    share = terms.to(rows.dtype)
    if weight is not None:
        rows, share = rows * weight.to(rows.dtype), share * weight.to(rows.dtype)
    return mean_by_shares(processes, ordered_sum(rows), ordered_sum(share), terms.sum())


def _fake_fwd(
    z: Tensor, labels: Tensor, temperature: Tensor, normalize: bool, pairs: bool
) -> tuple[Tensor, ...]:
    check_same_device(labels, "labels", z, "z", _OP)
    rows = z.shape[0]
    lengths = (rows, rows, rows, rows if pairs else 0, rows if pairs else 0)
    return (
        *(z.new_empty((length,), dtype=torch.float64) for length in lengths),
        z.new_empty((rows,), dtype=torch.int64),
        z.new_empty((rows,), dtype=torch.int64),
        z.new_empty((rows,), dtype=torch.int32),
    )


def _fake_bwd(*inputs: Any) -> tuple[Tensor, Tensor]:
    z, temperature = inputs[4:6]
    return z.new_empty(z.shape), temperature.new_empty(temperature.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, _, temperature, ctx.normalize, ctx.pairs = inputs
    lse_negative, lse_positive, _, _, pair_weight, positives, order, end = output
    ctx.save_for_backward(z, temperature, lse_negative, lse_positive, pair_weight, order, end)
    ctx.mark_non_differentiable(pair_weight, positives, order, end)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    grad_z, grad_temperature = torch.ops.sslkern.supcon_bwd(
        *grads[:4], *ctx.saved_tensors, ctx.normalize, ctx.pairs
    )
    return grad_z, None, grad_temperature, None, None


_extension.register_fake("sslkern::supcon_fwd", _fake_fwd)
_extension.register_fake("sslkern::supcon_bwd", _fake_bwd)
torch.library.register_autograd("sslkern::supcon_fwd", _backward, setup_context=_setup_context)
refuse_second_derivative(_OP, "supcon_loss", "supcon_bwd")
