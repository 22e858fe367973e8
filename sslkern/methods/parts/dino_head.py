"""DINO's projection head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts.heads import Norm, mlp
from sslkern.methods.parts.prototypes import Prototypes


class WeightNormed(Prototypes):
    """A linear layer without bias whose rows have unit norm, whatever the length of the weights.

    Unlike `Prototypes` it leaves the weights at their length: gradients pass through the division.
    """

    def __init__(self, dim: int, count: int, *, freeze_iterations: int = 0) -> None:
        super().__init__(dim, count, freeze_iterations=freeze_iterations, normalize=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Inner products (..., K) of embeddings (..., D) with the rows at unit norm."""
        return F.linear(embeddings, F.normalize(self.weight))


class DINOHead(nn.Module):
    r"""A perceptron, a bottleneck of unit norm, and cosines with K directions.

    .. math:: z = \frac{\mathrm{MLP}(h)}{\lVert \mathrm{MLP}(h) \rVert}, \quad
              s_k = z \cdot \frac{v_k}{\lVert v_k \rVert}

    The gain of the last layer's weight norm is fixed at one. For the first backward passes the
    last layer gets no gradient, as in the first epoch of the paper's code.

    Args:
        dim: Width F of the features.
        out_dim: Number K of scores.
        hidden_dim: Width of the hidden layers.
        bottleneck_dim: Width of z.
        layers: Linear layers before the last one.
        norm: Of the hidden layers.
        freeze_iterations: First backward passes that leave the last layer as it is.

    Raises:
        ValueError: If a size is not positive.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import DINOHead
        >>> head = DINOHead(32, 100, hidden_dim=64, bottleneck_dim=16)
        >>> scores = head(torch.randn(8, 32))
        >>> tuple(scores.shape), bool(scores.abs().max() <= 1)
        ((8, 100), True)

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294 (appendix C)
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        norm: Norm = "none",
        freeze_iterations: int = 0,
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden_dim] * (layers - 1), bottleneck_dim]
        self.mlp = mlp(widths, norm=norm, activation=nn.GELU)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.last = WeightNormed(bottleneck_dim, out_dim, freeze_iterations=freeze_iterations)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., F) to scores (..., K) between -1 and 1."""
        scores: Tensor = self.last(F.normalize(self.mlp(features), dim=-1))
        return scores
