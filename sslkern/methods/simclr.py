"""SimCLR: two views of an image attract each other, all other images of the batch repel."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode_views
from sslkern.methods.parts.heads import mlp
from sslkern.ops._common import check_positive_number
from sslkern.ops.ntxent import ntxent_loss

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""Projections of the two views, (B, D) each, and the temperature -> scalar loss."""


class SimCLR(Method):
    r"""Contrastive learning of an encoder :math:`f` through a projection head :math:`g`.

    .. math:: h = f(x), \quad z = g(h) = W_2\,\mathrm{ReLU}(\mathrm{BN}(W_1 h)), \quad
              \ell = \mathrm{NTXent}(z_a, z_b; \tau)

    The loss looks at :math:`z`; what is kept after training is :math:`h`, that is
    ``model.encoder``. Both views go through the encoder as one batch of 2B, so batch normalisation
    sees both, as in the paper's code. The paper's head has no norm; that of its code has a second
    one, after the last layer, which is left out. The temperature is the paper's for small
    images; for ImageNet it is 0.1. The code's loss is the sum of both halves' means, twice this.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width D of the projections that the loss compares.
        temperature: tau of the loss.
        loss: Called as ``loss(z_a, z_b, temperature)``; the fused NT-Xent if not given.

    Raises:
        ValueError: If a width or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import SimCLR
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = SimCLR(encoder, feature_dim=32)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> noisy = images + 0.1 * torch.randn_like(images)
        >>> loss = model(images, noisy)
        >>> loss.backward()
        >>> model.encoder(images).shape
        torch.Size([16, 32])

    Source: Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
    Representations. 2020. https://arxiv.org/abs/2002.05709 (section 2, algorithm 1)
    """

    least: ClassVar[int] = 1
    """Samples that the loss needs; one alone has a loss of 0."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        temperature: float = 0.5,
        loss: Loss = ntxent_loss,
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        check_positive_number(temperature, "temperature", self.op)
        self.encoder = encoder
        self.feature_dim = feature_dim
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        self.head = mlp([feature_dim, hidden_dim, projection_dim])
        self.temperature = temperature
        self.loss = loss

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch of positive pairs.

        Args:
            view_a: (B, ...) in the dtype of the parameters; one view of each sample.
            view_b: Same shape; another view of the same samples in the same order.

        Returns:
            What ``loss`` returns, by default the scalar mean over the 2B anchors.

        Raises:
            ValueError: If the views differ in shape, or the encoder returns something else than
                (2B, feature_dim) for them.
        """
        check_views((view_a, view_b), self.op, least=self.least)
        h = encode_views(self.encoder, (view_a, view_b), self.feature_dim, self.op)
        z_a, z_b = self.head(h).chunk(2)
        return self.loss(z_a, z_b, self.temperature)
