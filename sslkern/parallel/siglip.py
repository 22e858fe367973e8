"""SigLIP over the images and texts of all ranks: its terms are a sum over pairs, block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sslkern.ops._common import accumulate_dtype
from sslkern.parallel.blocks import Tensors, visit_blocks
from sslkern.parallel.gradients import once
from sslkern.parallel.processes import Processes, promoted


def siglip_rows(
    processes: Processes,
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    positives: bool,
) -> Tensor:
    """Losses of this rank's images, each a sum over the texts of all ranks."""
    image, text = promoted(image_features, text_features)
    rows: Tensor = _Pairs.apply(processes, image, text, scale, bias, positives)  # type: ignore
    return rows


class _Pairs(Function):
    @staticmethod
    def forward(
        ctx: Any,
        processes: Processes,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        positives: bool,
    ) -> Tensor:
        ctx.processes, ctx.positives = processes, positives
        ctx.save_for_backward(image, text, scale, bias)
        rows = torch.zeros(len(image), dtype=accumulate_dtype(image), device=image.device)

        def visit(rank: int, block: Tensors) -> Tensors:
            if len(image) > 0 and len(block[0]) > 0:
                own = positives and rank == processes.rank
                rows.add_(torch.ops.sslkern.siglip_fwd(image, block[0], scale, bias, own))
            return []

        visit_blocks(processes, "text_features", [text], visit)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        processes, tensors = ctx.processes, ctx.saved_tensors
        with torch.no_grad():
            grads = _gradients(processes, ctx.positives, grad, tensors, ctx.needs_input_grad[1:5])
        inputs = [x for x in tensors if x is not None]
        return once(processes.op, "siglip_loss", (None, *grads, None), tuple(inputs))


def _gradients(
    processes: Processes,
    positives: bool,
    grad: Tensor,
    tensors: tuple[Tensor, ...],
    need: tuple[bool, ...],
) -> list[Tensor | None]:
    """Of images, texts, scale and bias; those of texts are collected on their way."""
    image, text, scale, bias = tensors
    wide = accumulate_dtype(image)
    sums = [
        None if x is None else torch.zeros(x.shape, dtype=dtype, device=x.device)
        for x, dtype in ((image, wide), (scale, torch.float64), (bias, torch.float64))
    ]

    def visit(rank: int, block: Tensors) -> Tensors:
        own = positives and rank == processes.rank
        of_texts = torch.zeros(block[0].shape, dtype=wide, device=text.device)
        if len(image) > 0 and len(block[0]) > 0:
            arguments = (grad, image, block[0], scale, bias, own, *need)
            found = torch.ops.sslkern.siglip_bwd(*arguments)
            for total, part, wanted in zip(
                sums, (found[0], found[2], found[3]), (need[0], *need[2:]), strict=True
            ):
                if wanted and total is not None:
                    total += part
            of_texts = found[1].to(wide) if need[1] else of_texts
        return [of_texts] if need[1] else []

    collected = visit_blocks(processes, "text_features", [text], visit)
    grads = [sums[0], collected[0] if need[1] else None, *sums[1:]]
    return [
        x.to(like.dtype) if wanted and x is not None else None
        for x, like, wanted in zip(grads, tensors, need, strict=True)
    ]
