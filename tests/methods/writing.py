"""Small texts, an encoder that looks at other words, and its embeddings and losses by formula."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sslkern.methods.parts.language import LanguageModel

WORDS, DIM, LENGTH = 11, 6, 5
PAD, MASK, SPECIAL = 0, 1, 2


class Looking(nn.Module):
    """Each word gets a map of the mean of the words that it may look at."""

    def __init__(self, dim: int = DIM, out: int = DIM) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(dim, out), nn.Linear(dim, out)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        batch, length, _ = hidden.shape
        seen = torch.ones(batch, length, length, dtype=torch.bool)
        if mask is not None:
            seen &= ~mask
        if padding is not None:
            seen &= ~padding[:, None]
        share = seen.to(hidden.dtype)
        mean = share @ hidden / share.sum(2, keepdim=True).clamp(min=1)
        out: Tensor = torch.tanh(self.own(hidden) + self.others(mean))
        return out


def texts(shape: tuple[int, ...], seed: int = 1, *, pads: bool = False) -> Tensor:
    """Words that are not special, and with ``pads`` none at the end of every other text."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, WORDS, shape, generator=generator)
    if pads:
        tokens[::2, ..., -2:] = PAD
    return tokens


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    variance = (x - x.mean()).square().mean()
    return (x - x.mean()) / (variance + 1e-12).sqrt() * norm.weight + norm.bias


def embedded(
    m: LanguageModel, words: Iterable[int], kinds: Iterable[int], places: Iterable[int]
) -> Tensor:
    """Normalized sums (1, L, D) for a text."""
    rows = [
        m.words.weight[w] + m.positions.weight[p] + m.kinds.weight[k]
        for w, k, p in zip(words, kinds, places, strict=True)
    ]
    return torch.stack([layer_norm(row, m.norm) for row in rows])[None]


def word_loss(m: LanguageModel, hidden: Tensor, word: int) -> Tensor:
    logits = m.words.weight @ hidden
    if m.bias is not None:
        logits = logits + m.bias
    return (logits - logits[word]).exp().sum().log()


def plain_masks(tokens: Tensor, rate: float, never: set[int]) -> tuple[Tensor, Tensor]:
    """Inputs, and which words are to be predicted, as the paper says it word by word."""
    chosen, how = torch.rand(tokens.shape), torch.rand(tokens.shape)
    others = torch.randint(WORDS, tokens.shape)
    inputs, predicted = tokens.clone(), torch.zeros(tokens.shape, dtype=torch.bool)
    for place in map(tuple, torch.ones(tokens.shape).nonzero().tolist()):
        if chosen[place] >= rate or int(tokens[place]) in never:
            continue
        predicted[place] = True
        if how[place] < 0.8:
            inputs[place] = MASK
        elif how[place] >= 0.9:
            inputs[place] = others[place]
    return inputs, predicted
