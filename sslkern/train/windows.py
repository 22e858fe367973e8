"""Words and their contexts, as word2vec cuts them out of texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkern.methods.word2vec import NOTHING


def keep_probability(counts: Tensor, threshold: float = 1e-3) -> Tensor:
    r"""Probability (V,) that a word stays, as in the authors' code: the less the more frequent.

    .. math:: p_w = \min\bigl(1, \sqrt{t / f_w} + t / f_w\bigr)

    Args:
        counts: How often each word occurs, (V,); :math:`f_w` is its share.
        threshold: t.

    Example:
        >>> keep_probability(torch.tensor([0, 1, 99]), threshold=0.01).tolist()[:2]
        [1.0, 1.0]
    """
    scarcity = threshold * counts.sum() / counts.double()  # infinite where there is no such word
    return (scarcity.sqrt() + scarcity).clamp(max=1.0)


def windows(
    texts: Tensor, keep: Tensor, window: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Words and those around them, within texts from which frequent words were dropped first.

    Each word's window is drawn evenly from 1 to ``window`` words on each side, so that near words
    count more.

    Args:
        texts: (B, L) int64.
        keep: Probability that a word stays, (V,).
        window: The most words on each side.
        generator: Draws both.

    Returns:
        Centers (N,), as many as words have stayed, and contexts (N, 2 window), -1 where there is
        none: beyond the window or the text.
    """
    stay = torch.rand(texts.shape, generator=generator, dtype=torch.float64) < keep[texts]
    center, text = texts[stay], stay.nonzero()[:, 0]
    size = torch.randint(1, window + 1, center.shape, generator=generator)
    neighbours, of_text = (
        F.pad(x, (window, window), value=NOTHING).unfold(0, 2 * window + 1, 1)
        for x in (center, text)
    )
    distance = torch.arange(-window, window + 1).abs()
    inside = (of_text == text[:, None]) & (distance <= size[:, None])
    context = neighbours.masked_fill(~inside, NOTHING)
    return center, context[:, distance > 0]
