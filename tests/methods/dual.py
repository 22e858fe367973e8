"""Small images and texts, and their unit rows in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from steps import Batch, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods.parts.dual_encoder import DualEncoder

WORDS, TEXT_DIM = 20, 7


def make_pair_method(method: type[Any], **options: Any) -> Any:
    torch.manual_seed(0)
    texts = options.pop("text_encoder", None) or nn.EmbeddingBag(WORDS, TEXT_DIM)
    settings = {"projection_dim": 5, **options}
    return method(small_encoder(), texts, 12, TEXT_DIM, **settings).double()


def pair_batches(batch: int = 6, steps: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.rand(batch, 1, 4, 4, dtype=torch.float64, generator=generator),
            torch.randint(WORDS, (batch, 3), generator=generator),
        )
        for _ in range(steps)
    ]


def plain_rows(m: DualEncoder, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    words = m.text_encoder.weight[texts].mean(1)
    return unit(m.encoder(images) @ m.projection.weight.T), unit(words @ m.text_projection.weight.T)
