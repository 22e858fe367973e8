"""The small transformers that texts and captions are trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.data.text import PAD


class TextEncoder(nn.Module):
    """A transformer over words: blocks with norms first, and a norm at the end.

    Args:
        dim: Width D.
        depth: Number of blocks.
        heads: Of the attention.
    """

    def __init__(self, dim: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        blocks = (
            nn.TransformerEncoderLayer(
                dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """Map (B, L, D) to the same shape.

        Args:
            hidden: (B, L, D).
            mask: (L, L) bool, True where a word, by rows, may not look at another.
            padding: (B, L) bool, True for words that nobody may look at.
        """
        for block in self.blocks:
            hidden = block(hidden, mask, padding)
        normed: Tensor = self.norm(hidden)
        return normed


class CaptionEncoder(nn.Module):
    """Padded texts (B, L) -> features (B, dim): the mean of a small transformer's outputs.

    Args:
        vocabulary: Number of words.
        length: L.
        dim: Width of the features.
        depth: Number of blocks.
    """

    def __init__(self, vocabulary: int, length: int, dim: int = 64, depth: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(length, dim))
        self.encoder = TextEncoder(dim, depth)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map texts (B, L) int64, padded at the end, to features (B, dim)."""
        padding = tokens == PAD
        hidden = self.encoder(self.words(tokens) + self.positions, None, padding)
        said = (~padding)[..., None].to(hidden)
        features: Tensor = (hidden * said).sum(1) / said.sum(1)
        return features
