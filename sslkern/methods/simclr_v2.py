"""SimCLR v2: a deeper projection head, of which the first layer is kept."""

from __future__ import annotations

from typing import Any

from torch import nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.simclr import SimCLR
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count

_MODULES = 3
"""Of a layer of the head that is not the last: linear, norm, activation."""


class SimCLRv2(SimCLR):
    r"""SimCLR whose head has more layers, fine-tuned from one of them.

    .. math:: h = f(x), \quad z = W_3\,\mathrm{ReLU}(\mathrm{BN}(W_2\,\mathrm{ReLU}(
              \mathrm{BN}(W_1 h)))), \quad \ell = \mathrm{NTXent}(z_a, z_b; \tau)

    for the paper's head of two hidden layers. Of a deep head the first layers are worth keeping:
    `trunk` is what the paper fine-tunes with few labels, the encoder and the first layer. What it
    has learned then goes into a smaller network by `SimCLRDistillation`.

    The paper's optional memory of a momentum encoder is left out.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_layers: Hidden layers of the head.
        hidden_dim: Width of the head's hidden layers; ``feature_dim`` if not given.
        projection_dim: Width D of the projections that the loss compares.
        settings: ``temperature`` and ``loss`` as of `SimCLR`.

    Raises:
        ValueError: If a width, the number of layers or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import SimCLRv2
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = SimCLRv2(encoder, feature_dim=32, hidden_dim=48)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> classifier = torch.nn.Sequential(model.trunk(), torch.nn.Linear(48, 10))
        >>> classifier(images).shape
        torch.Size([16, 10])

    Source: Chen, Kornblith, Swersky, Norouzi, Hinton: Big Self-Supervised Models are Strong
    Semi-Supervised Learners. 2020. https://arxiv.org/abs/2006.10029 (section 2)
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_layers: int = 2,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        **settings: Any,
    ) -> None:
        check_count(hidden_layers, "hidden_layers", "SimCLRv2")
        super().__init__(encoder, feature_dim, projection_dim=projection_dim, **settings)
        hidden = [feature_dim if hidden_dim is None else hidden_dim] * hidden_layers
        self.head = mlp([feature_dim, *hidden, projection_dim])

    def trunk(self, layers: int = 1) -> nn.Sequential:
        """The encoder and the first layers of the head, with their norms and activations.

        Args:
            layers: How many, from 0 to the number of hidden layers.

        Raises:
            ValueError: If there are fewer.
        """
        most = len(self.head) // _MODULES
        if not 0 <= layers <= most:
            refuse(self.op, "layers", f"from 0 to {most}", layers)
        return nn.Sequential(self.encoder, *list(self.head)[: _MODULES * layers])
