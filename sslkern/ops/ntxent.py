"""NT-Xent: the public function, and the shapes and gradient of its operator."""

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
from sslkern.parallel.agreement import presence
from sslkern.parallel.gradients import reduce_over_ranks
from sslkern.parallel.ntxent import ntxent_rows
from sslkern.parallel.processes import Sharing, are_many, meet
from sslkern.reference._common import reduce_loss

_OP = "ntxent"


def ntxent_loss(
    z_a: Tensor,
    z_b: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    strategy: str = "gather",
    check: bool = True,
) -> Tensor:
    r"""Normalised temperature-scaled cross entropy between two views, without the 2B x 2B matrix.

    With the rows :math:`Z = [z_a; z_b]`, :math:`s_{ij} = \hat z_i \cdot \hat z_j / \tau` and the
    partner :math:`\pi(i) = (i + B) \bmod 2B`:

    .. math:: \ell_i = \log \sum_{j \ne i} \exp(s_{ij}) - s_{i, \pi(i)}

    Rows whose norm is below 1e-12 count as zero vectors and get a zero gradient; here
    ``torch.nn.functional.normalize`` would divide by eps. The result does not depend on the number
    of threads, to the bit.

    Args:
        z_a: Embeddings of the first view, (B, D), float64, float32, bfloat16 or float16. Half
            types are read as they are; all arithmetic is in float32 (float64 for float64).
        z_b: Embeddings of the second view, like ``z_a``. Under autocast differing dtypes are
            promoted to the wider one.
        temperature: Positive number, or a tensor with one element, which may require grad.
        normalize: Scale every row to unit norm first.
        reduction: ``"none"`` for the 2B losses in the order [a; b], ``"sum"``, or ``"mean"`` =
            sum(w * loss) / sum(w).
        weight: Weight of each pair, (B,), or of each row, (2B,). May require grad.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            see `sslkern.parallel` for what that means for results and gradients.
        process_group: The ranks; by default all.
        strategy: ``"gather"``: every rank holds all rows while it computes; ``"ring"``: its own
            and two other ranks'.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar, or (2B,) for ``"none"``; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device, reduction or temperature.
        TypeError: For a wrong dtype or layout.
        NotImplementedError: When the gradient itself is differentiated.

    Example:
        >>> import torch, sslkern
        >>> z_a = torch.eye(2, requires_grad=True)
        >>> loss = sslkern.ntxent_loss(z_a, torch.eye(2), temperature=0.5)
        >>> print(f"{loss.item():.6f}")
        0.239545
        >>> loss.backward()

    Equals: `sslkern.reference.ntxent_loss`.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, https://arxiv.org/abs/2002.05709
    """

    def check_arguments() -> None:
        check_tensor(z_a, "z_a", _OP)
        check_tensor(z_b, "z_b", _OP)
        check_reduction(reduction, _OP)
        check_flags(_OP, normalize=normalize)
        if are_many(sharing):
            check_one_number(temperature, "temperature", _OP, z_a)
        if weight is not None and z_a.dim() == 2:
            check_row_weight(weight, _OP, {"B": len(z_a), "2B": 2 * len(z_a)}, z_a)

    sharing = Sharing(gather_distributed, process_group, check, strategy)
    shards = {"z_a": z_a, "z_b": z_b}
    options = {
        "temperature": temperature,
        "normalize": normalize,
        "the weight of rows": presence(weight),
        "reduction": reduction,
    }
    processes = meet(_OP, sharing, shards, options, check_arguments)
    tau = as_scalar_tensor(temperature, "temperature", _OP, z_a)
    if weight is not None and z_a.dim() == 2 and len(weight) == len(z_a):
        weight = torch.cat([weight, weight])
    if processes is not None:
        rows = ntxent_rows(processes, z_a, z_b, tau, normalize)
        return reduce_over_ranks(processes, rows, weight, reduction)
    loss, _ = torch.ops.sslkern.ntxent_fwd(z_a, z_b, tau, normalize)
    return reduce_loss(loss, weight, reduction)


def _fake_fwd(
    z_a: Tensor, z_b: Tensor, temperature: Tensor, normalize: bool
) -> tuple[Tensor, Tensor]:
    check_same_device(z_b, "z_b", z_a, "z_a", _OP)
    rows = z_a.shape[0] + z_b.shape[0]
    accumulate = accumulate_dtype(z_a)
    return z_a.new_empty((rows,), dtype=accumulate), z_a.new_empty((rows,), dtype=torch.float64)


def _fake_bwd(
    grad_loss: Tensor, z_a: Tensor, z_b: Tensor, temperature: Tensor, lse: Tensor, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        z_a.new_empty(z_a.shape),
        z_b.new_empty(z_b.shape),
        temperature.new_empty(temperature.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z_a, z_b, temperature, ctx.normalize = inputs
    ctx.save_for_backward(z_a, z_b, temperature, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_loss: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    z_a, z_b, temperature, lse = ctx.saved_tensors
    grads = torch.ops.sslkern.ntxent_bwd(grad_loss, z_a, z_b, temperature, lse, ctx.normalize)
    return (*grads, None)


_extension.register_fake("sslkern::ntxent_fwd", _fake_fwd)
_extension.register_fake("sslkern::ntxent_bwd", _fake_bwd)
torch.library.register_autograd("sslkern::ntxent_fwd", _backward, setup_context=_setup_context)
refuse_second_derivative(_OP, "ntxent_loss", "ntxent_bwd")
