"""InfoNCE within the batch, as sentence encoders are trained: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkern import reference
from sslkern.bench.contenders import (
    Case,
    LossFn,
    Size,
    UnavailableError,
    loss_contender,
    standard_contenders,
    steps_of_four,
)
from sslkern.bench.ntxent import PML_MAX_ROWS
from sslkern.bench.peers import import_peer
from sslkern.bench.products import sgemm_floor

TEMPERATURE = 0.05
"""One over the default scale of sentence-transformers."""
CHUNK = 256
"""Rows of a chunk of sentence-transformers' cached loss, whose default of 32 is slower."""


def make_inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Embeddings of N queries and of their N documents; not normalised."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.rows, size.dim)
    shared, noise_q, noise_d = (torch.randn(shape, generator=generator) for _ in range(3))
    return (shared + noise_q).to(dtype), (shared + noise_d).to(dtype)


def check_size(size: Size) -> None:
    """Any number of pairs."""
    if size.rows < 1 or size.dim < 1:
        raise ValueError(f"expected N and D in size {size} to be at least 1")


def flops(size: Size) -> int:
    """Operations of one pass: the similarities, their gradient times the documents, the queries."""
    return 6 * size.rows * size.rows * size.dim


def call(loss_fn: LossFn) -> LossFn:
    """With the temperature of the case."""
    return lambda query, document: loss_fn(query, document, temperature=TEMPERATURE)


class _AsIs(nn.Sequential):
    """A model whose features are its embeddings; the cached loss looks at its first module."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def forward(self, input: Any, **_: Any) -> Any:
        return input


def _sentence_losses() -> Any:
    return import_peer("sentence-transformers", "sentence_transformers.sentence_transformer.losses")


def _load_sentence_transformers(size: Size) -> LossFn:
    loss = _sentence_losses().MultipleNegativesRankingLoss(_AsIs(), scale=1 / TEMPERATURE)
    return lambda *pair: loss([{"sentence_embedding": z} for z in pair], None)


def _load_cached(size: Size) -> LossFn:
    """Its loss of chunks of rows; without the encoder, whose forward passes it would repeat."""
    loss = _sentence_losses().CachedMultipleNegativesRankingLoss(
        _AsIs(), scale=1 / TEMPERATURE, mini_batch_size=CHUNK
    )
    apply: LossFn = _Chunked.apply
    return lambda *pair: apply(loss, *pair)


class _Chunked(torch.autograd.Function):
    """The cached loss: its forward pass forms the gradients of the embeddings, by chunks."""

    @staticmethod
    def forward(ctx: Any, loss: Any, *pair: Tensor) -> Tensor:
        needed = any(ctx.needs_input_grad)
        with torch.set_grad_enabled(needed):
            leaves = [z.detach().requires_grad_(needed) for z in pair]
            value: Tensor = loss.calculate_loss([[z] for z in leaves], with_backward=needed)
        ctx.save_for_backward(*(z.grad for z in leaves))
        return value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(grad * g for g in ctx.saved_tensors)


def _load_info_nce_pytorch(size: Size) -> LossFn:
    module: Any = import_peer("info-nce-pytorch", "info_nce")
    loss_fn: LossFn = module.InfoNCE(temperature=TEMPERATURE)
    return loss_fn


def _load_pml(size: Size) -> LossFn:
    if 2 * size.rows > PML_MAX_ROWS:
        raise UnavailableError(f"its memory grows with N^3; run up to N = {PML_MAX_ROWS // 2}")
    losses: Any = import_peer("pytorch-metric-learning", "pytorch_metric_learning.losses")
    ntxent = losses.NTXentLoss(temperature=TEMPERATURE)
    loss_fn: LossFn = losses.SelfSupervisedLoss(ntxent, symmetric=False)
    return loss_fn


CASE = Case(
    name="in_batch",
    title="InfoNCE within the batch",
    make_inputs=make_inputs,
    check_size=check_size,
    reference=call(reference.info_nce_loss),
    reference_matrices=4,
    flops=flops,
    contenders=(
        *standard_contenders("info_nce_loss", call, eager=4, compiled=2),
        loss_contender(
            "sentence-transformers",
            "MultipleNegativesRankingLoss of embeddings",
            _load_sentence_transformers,
            matrices=4,
            peer="sentence-transformers",
        ),
        loss_contender(
            "sentence-transformers cached",
            f"CachedMultipleNegativesRankingLoss of embeddings, chunks of {CHUNK}",
            _load_cached,
            peer="sentence-transformers",
        ),
        loss_contender(
            "info-nce-pytorch",
            "info_nce.InfoNCE without negative keys",
            _load_info_nce_pytorch,
            matrices=4,
            peer="info-nce-pytorch",
        ),
        loss_contender(
            "pytorch-metric-learning",
            "SelfSupervisedLoss(NTXentLoss, symmetric=False), N <= 256",
            _load_pml,
            peer="pytorch-metric-learning",
        ),
        sgemm_floor(),
    ),
    default_sizes=(Size(4096, 128),),
    peer_sizes=steps_of_four(64, 16384, 128),
)
