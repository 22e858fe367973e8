"""The loss of CLIP, InfoNCE in both directions: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern import reference
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

LOGIT_SCALE = 1 / 0.07
"""Where CLIP begins."""


def make_features(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features of N images and their N texts, of unit norm."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows, size.dim)
    shared, noise_i, noise_t = (torch.randn(shape, generator=generator) for _ in range(3))
    image, text = (F.normalize(shared + noise).to(dtype) for noise in (noise_i, noise_t))
    return image, text


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The features, and the scale of the logits."""
    scale = torch.tensor(LOGIT_SCALE, dtype=working_dtype(dtype))
    return *make_features(size, dtype), scale


def check_size(size: Size) -> None:
    """Any number of pairs."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of an algorithm that does not store the similarities S: four N x D x N products.

    Forward: S, for both directions. Backward: S again, and its gradient times the texts and the
    images.
    """
    return 8 * size.rows * size.rows * size.dim


def _load_open_clip(size: Size) -> LossFn:
    module: Any = load_peer_file("open_clip_torch", "open_clip/loss.py")
    loss_fn: LossFn = module.ClipLoss()
    return loss_fn


CASE = Case(
    name="clip",
    title="CLIP",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=reference.clip_loss,
    reference_matrices=4.1,
    flops=flops,
    contenders=(
        *standard_contenders("clip_loss", eager=4.1, compiled=2),
        loss_contender(
            "open_clip",
            "open_clip.ClipLoss, eager",
            _load_open_clip,
            matrices=4.1,
            peer="open_clip_torch",
        ),
        sgemm_floor(forward=2),
    ),
    default_sizes=(Size(4096, 128), Size(4096, 512)),
    peer_sizes=steps_of_four(64, 16384, 128),
)
