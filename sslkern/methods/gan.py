"""GAN: a generator learns from a discriminator that learns to tell its samples from real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.adversarial import (
    discriminator_loss,
    generator_loss,
    scores_of_frozen,
)
from sslkern.methods.parts.reconstruction import decode
from sslkern.ops._embeddings import check_count

_OP = "GAN"


class GAN(Method):
    r"""Generative adversarial network with the generator's loss that does not saturate.

    .. math:: \ell = \underbrace{-\log D(x) - \log(1 - D(G(z)))}_{\text{of the discriminator}}
              \ \underbrace{- \log D(G(z))}_{\text{of the generator}}, \quad
              D(x) = \mathrm{sigmoid}(w^\top f(x) + b), \quad z \sim N(0, I)

    with means over the batch. The first two terms do not reach the generator, whose samples are
    detached there, and the last one does not reach the discriminator, whose parameters are detached
    there. So one optimizer takes the steps of both players at once, where the paper alternates
    them, with one or several steps of the discriminator for each of the generator. The encoder f
    with a linear map is the discriminator; each forward pass draws z from torch's global generator.

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim). A batch norm in it would see
            real and generated images apart.
        feature_dim: Width of the encoder's features.
        generator: Maps codes (B, latent_dim) to the shape of the images.
        latent_dim: Width of the codes.

    Raises:
        ValueError: If a width is not positive.
        TypeError: If a width is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import GAN
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> layers = [torch.nn.Linear(8, 64), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (1, 8, 8))]
        >>> model = GAN(encoder, 32, torch.nn.Sequential(*layers), latent_dim=8)
        >>> model(torch.rand(16, 1, 8, 8)).backward()
        >>> model.sample(5).shape
        torch.Size([5, 1, 8, 8])

    Source: Goodfellow et al., "Generative Adversarial Networks", 2014,
    https://arxiv.org/abs/1406.2661 (section 3)
    """

    def __init__(
        self, encoder: nn.Module, feature_dim: int, generator: nn.Module, *, latent_dim: int = 100
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", _OP)
        check_count(latent_dim, "latent_dim", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, 1)
        self.generator = generator
        self.latent_dim = latent_dim

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of both players' mean losses.

        Args:
            images: (B, ...), real ones.

        Returns:
            Scalar.

        Raises:
            ValueError: If the batch holds one sample where a batch norm needs two, or encoder or
                generator return another shape.
        """
        check_views((images,), _OP, norms=[self.encoder, self.generator], name="images")
        code = self._draw(len(images))
        samples = decode(self.generator, code, tuple(images.shape[1:]), _OP, "generator")
        real, generated = self.scores(images), self.scores(samples.detach())
        judged = scores_of_frozen(nn.Sequential(self.encoder, self.head), samples)
        return discriminator_loss(real, generated) + generator_loss(judged)

    def scores(self, images: Tensor) -> Tensor:
        """Logits of being real, (B, 1), of images (B, ...)."""
        scores: Tensor = self.head(encode(self.encoder, images, self.feature_dim, _OP))
        return scores

    def sample(self, count: int) -> Tensor:
        """Generated images (count, ...), of codes from torch's global generator."""
        check_count(count, "count", _OP)
        samples: Tensor = self.generator(self._draw(count))
        return samples

    def _draw(self, count: int) -> Tensor:
        like = self.head.weight
        return torch.randn(count, self.latent_dim, dtype=like.dtype, device=like.device)
