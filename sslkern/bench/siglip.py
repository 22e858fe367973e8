"""SigLIP, every pair a classification: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    Contender,
    LossFn,
    Problem,
    Size,
    Step,
    loss_contender,
    standard_contenders,
    working_dtype,
)
from sslkern.bench.peers import load_peer_file

LOGIT_SCALE, LOGIT_BIAS = 10.0, -10.0
"""Where SigLIP begins."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Features of N images and their N texts, of unit norm; scale and bias of the logits."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows, size.dim)
    shared, noise_i, noise_t = (torch.randn(shape, generator=generator) for _ in range(3))
    image, text = (F.normalize(shared + noise).to(dtype) for noise in (noise_i, noise_t))
    working = working_dtype(dtype)
    return image, text, *(torch.tensor(x, dtype=working) for x in (LOGIT_SCALE, LOGIT_BIAS))


def check_size(size: Size) -> None:
    """Any number of pairs."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of one pass: three N x D x N products.

    The similarities, and their gradient times the texts and the images: no pair waits for another,
    so the gradient can be formed while the similarities are there.
    """
    return 6 * size.rows * size.rows * size.dim


def _load_open_clip(size: Size) -> LossFn:
    module: Any = load_peer_file("open_clip_torch", "open_clip/loss.py")
    loss_fn: LossFn = module.SigLipLoss()
    return loss_fn


def _prepare_three_sgemm(problem: Problem) -> Step:
    """The three products of `flops`, with no loss between them."""
    image, text, *_ = (x.to(working_dtype(problem.dtype)) for x in problem.inputs)
    similarities = image.new_empty(len(image), len(text))
    grad_image, grad_text = torch.empty_like(image), torch.empty_like(text)

    def step() -> None:
        torch.mm(image, text.t(), out=similarities)
        torch.mm(similarities, text, out=grad_image)
        torch.mm(similarities.t(), image, out=grad_text)

    return step


CASE = Case(
    name="siglip",
    title="SigLIP",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=reference.siglip_loss,
    reference_matrices=5.1,
    flops=flops,
    contenders=(
        *standard_contenders("siglip_loss", eager=5.1, compiled=1.1),
        loss_contender("open_clip", "open_clip.SigLipLoss, eager", _load_open_clip, matrices=5.1),
        Contender(
            "three sgemm",
            "three N x D x N products: a floor",
            _prepare_three_sgemm,
            matrices=1,
            is_floor=True,
        ),
    ),
    default_sizes=(Size(4096, 128), Size(4096, 512)),
)
