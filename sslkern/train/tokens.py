"""What recipes of transformers share: an encoder of tokens, and the features of its images."""

from __future__ import annotations

from torch import Tensor, nn


class TokenEncoder(nn.Module):
    """A transformer over tokens: blocks with norms first, and a norm at the end.

    Args:
        dim: Width D of the tokens.
        depth: Number of blocks.
        heads: Of the attention.
        expansion: Width of the hidden layer of each block's perceptron, in D.
    """

    def __init__(self, dim: int = 64, depth: int = 2, heads: int = 4, expansion: int = 2) -> None:
        super().__init__()
        blocks = [
            nn.TransformerEncoderLayer(
                dim,
                heads,
                expansion * dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, L, D) to tokens of the same shape."""
        encoded: Tensor = self.layers(tokens)
        return encoded
