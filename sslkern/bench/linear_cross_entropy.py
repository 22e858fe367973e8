"""Softmax cross entropy over a vocabulary, as in BERT: inputs, contenders and the floor."""

from __future__ import annotations

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
)
from sslkern.bench.products import sgemm_floor

VOCABULARY = 30522
"""Classes, the word pieces of BERT."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states out of a layer norm, word embeddings as BERT begins with them, and targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(size.rows, size.dim, generator=generator)
    weight = 0.02 * torch.randn(VOCABULARY, size.dim, generator=generator)
    target = torch.randint(VOCABULARY, (size.rows,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), target


def check_size(size: Size) -> None:
    """Any number of hidden states."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of one pass over the vocabulary: three products of N x D x VOCABULARY.

    The logits, and their gradient times the weight and the hidden states. A chunk of hidden states
    sees its whole rows of logits, so the gradients can be formed while these are there.
    """
    return 6 * size.rows * VOCABULARY * size.dim


def _load_torch_chunked(size: Size) -> LossFn:
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda x, weight, target: F.linear_cross_entropy(x, weight, target, options=options)


def _load_torch_dense(size: Size) -> LossFn:
    return lambda x, weight, target: F.cross_entropy(F.linear(x, weight), target)


CASE = Case(
    name="linear_cross_entropy",
    title=f"Linear cross entropy, {VOCABULARY} classes",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=reference.linear_cross_entropy,
    reference_matrices=3,
    flops=flops,
    columns=lambda size: VOCABULARY,
    gradients=2,
    contenders=(
        *standard_contenders("linear_cross_entropy", eager=3, compiled=1),
        loss_contender(
            "torch chunked",
            "torch.nn.functional.linear_cross_entropy with LinearCrossEntropyOptions()",
            _load_torch_chunked,
        ),
        loss_contender(
            "torch dense",
            "F.cross_entropy of F.linear, in the dtype of the inputs",
            _load_torch_dense,
            matrices=3,
        ),
        sgemm_floor(),
    ),
    default_sizes=(Size(1024, 256), Size(2048, 768)),
)
