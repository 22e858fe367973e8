"""SigLIP, every pair a classification: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern import reference
from sslkern.bench import clip
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Size,
    loss_contender,
    standard_contenders,
    steps_of_four,
    working_dtype,
)
from sslkern.bench.peers import load_peer_file
from sslkern.bench.products import sgemm_floor

LOGIT_SCALE, LOGIT_BIAS = 10.0, -10.0
"""Where SigLIP begins."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Features of N images and their N texts, of unit norm; scale and bias of the logits."""
    working = working_dtype(dtype)
    parameters = (torch.tensor(x, dtype=working) for x in (LOGIT_SCALE, LOGIT_BIAS))
    return *clip.make_features(size, dtype), *parameters


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


CASE = Case(
    name="siglip",
    title="SigLIP",
    make_inputs=make_inputs,
    check_size=clip.check_size,
    reference=reference.siglip_loss,
    reference_matrices=5.1,
    flops=flops,
    contenders=(
        *standard_contenders("siglip_loss", eager=5.1, compiled=1.1),
        loss_contender(
            "open_clip",
            "open_clip.SigLipLoss, eager",
            _load_open_clip,
            matrices=5.1,
            peer="open_clip_torch",
        ),
        sgemm_floor(),
    ),
    default_sizes=(Size(4096, 128), Size(4096, 512)),
    peer_sizes=steps_of_four(64, 16384, 128),
)
