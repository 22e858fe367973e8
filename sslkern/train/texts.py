"""What recipes on text share: batches, and how well words are predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.data import Text
from sslkern.data.text import CLS, SEP
from sslkern.train.recipe import Measures


def rows(samples: Text, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
    """Pieces of documents as they are."""
    return (samples.tokens[index],)


def sentence_pairs(
    samples: Text, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Both halves of a row, or for half of the rows the first half and the second of any row.

    Returns:
        Tokens (B, L + 3) with [CLS] before, [SEP] between and [SEP] behind the halves; the segment
        of each; and (B,), 1 where the second is of any row.
    """
    tokens = samples.tokens[index]
    first, second = tokens.tensor_split(2, dim=1)
    unrelated = torch.randint(2, (len(index),), generator=generator)
    others = torch.randint(len(samples), (len(index),), generator=generator)
    replacement = samples.tokens[others].tensor_split(2, dim=1)[1]
    second = torch.where(unrelated[:, None] == 1, replacement, second)
    start, end = tokens.new_full((len(index), 1), CLS), tokens.new_full((len(index), 1), SEP)
    joined = torch.cat([start, first, end, second, end], 1)
    segments = (torch.arange(joined.shape[1]) > first.shape[1] + 1).long()
    return joined, segments.expand_as(joined), unrelated


def unigram(train: Text, test: Text, generator: torch.Generator) -> Measures:
    """Words by how frequent they are in the training half."""
    return word_frequencies(train.tokens, test.tokens, len(train.vocabulary))


def word_frequencies(seen: Tensor, unseen: Tensor, vocabulary: int) -> Measures:
    """Mean loss of words by how often others were seen, with one added to each count."""
    counts = torch.bincount(seen.flatten(), minlength=vocabulary) + 1.0
    likelihood = (counts / counts.sum()).log()
    return {"log_perplexity": -likelihood[unseen].mean().item()}
