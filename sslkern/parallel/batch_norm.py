"""Batch normalization of rows that are on several ranks, by the statistics of all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sslkern.parallel.processes import Processes

MOMENTS = "moments"
"""Name of what every rank has one row of."""


def batch_norm(
    processes: Processes,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` where each rank has some rows of the batch.

    Mean and variance are those of all rows, the running ones too, and the gradient goes through
    both. Of each pass, forward or backward, the ranks exchange one vector. On any device, unlike
    ``torch.nn.SyncBatchNorm``, which wants GPUs.

    Args:
        processes: The ranks; each has a row of ``MOMENTS``.
        input: This rank's rows, (rows, C, ...), at least one.
        running_mean: (C,), moved in place where ``training``; None keeps none.
        running_var: (C,), likewise.
        weight: (C,).
        bias: (C,).
        training: Whether to normalize by the batch, not by the running moments.
        momentum: Share of the batch in the new running moments.
        eps: Added to the variance.

    Raises:
        ValueError: If there is one value for each channel alone, on all ranks together.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    mean, variance, count = _moments_of_all(processes, x.detach())
    if count <= 1:  # in torch's words
        shape = tuple(input.shape)
        raise ValueError(f"Expected more than 1 value per channel when training, got {shape}")
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((variance * (count / (count - 1))).to(running_var), momentum)
    normalized: Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
        processes, x, weight, bias, mean, variance, count, eps
    )
    return normalized.to(input.dtype)


def _moments_of_all(processes: Processes, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance (C,), float64, and the number of values of a channel."""
    variance, mean = torch.var_mean(x, _others(x), correction=0)
    count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
    own = torch.cat([mean.double(), variance.double(), count])
    found = torch.stack(processes.all_gather(own[None], processes.rows[MOMENTS])).squeeze(1)
    total = found[:, -1:].sum()
    share = found[:, -1:] / total
    means, variances = found[:, :-1].chunk(2, 1)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance, float(total)


class _Normalize(Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, whose moments depend on all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any,
        processes: Processes,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: float,
        eps: float,
    ) -> Tensor:
        ctx.processes, ctx.count = processes, count
        ctx.save_for_backward(x, weight, mean.to(x), (variance + eps).rsqrt().to(x))
        return F.batch_norm(x, mean.to(x), variance.to(x), weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.dim() - 2))
        unit = (x - mean.view(shape)) * scale.view(shape)
        sums = [y.sum(_others(x), dtype=torch.float64) for y in (grad, grad * unit)]
        means = (ctx.processes.all_reduce(torch.stack(sums)) / ctx.count).to(x)
        grad_unit = grad - means[0].view(shape) - unit * means[1].view(shape)
        factor = scale if weight is None else scale * weight
        of_bias, of_weight = (
            y.to(x) if needed else None
            for y, needed in zip(sums, ctx.needs_input_grad[3:1:-1], strict=True)
        )
        return None, grad_unit * factor.view(shape), of_weight, of_bias, *[None] * 4


def _others(x: Tensor) -> list[int]:
    """The dimensions but that of the channels."""
    return [d for d in range(x.dim()) if d != 1]
