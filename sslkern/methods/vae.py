"""VAE: a distribution of codes for each image, and images from codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.reconstruction import decode
from sslkern.ops._embeddings import check_count

_OP = "VAE"


class VAE(Method):
    r"""Variational autoencoder of inputs in [0, 1].

    .. math:: \ell = \sum_k \mathrm{BCE}(x_k, \hat x_k)
              - \frac{1}{2} \sum_j \left(1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2\right), \quad
              \hat x = \mathrm{sigmoid}(g(\mu + \sigma \varepsilon)), \quad \varepsilon \sim N(0, I)

    averaged over the batch: the negative evidence lower bound with one sample, where each number of
    an input is the probability of a 1, and codes have the prior N(0, I). Mean and log variance are
    linear in the encoder's features. Each forward pass draws from torch's global generator.

    Args:
        encoder: Maps inputs (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        decoder: Maps codes (B, latent_dim) to logits of the shape of the inputs.
        latent_dim: Width of the codes.

    Raises:
        ValueError: If a width is not positive.
        TypeError: If a width is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import VAE
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Unflatten(1, (1, 8, 8)))
        >>> model = VAE(encoder, 32, decoder, latent_dim=2)
        >>> model(torch.rand(16, 1, 8, 8)).backward()
        >>> model.sample(5).shape
        torch.Size([5, 1, 8, 8])

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2013,
    https://arxiv.org/abs/1312.6114 (section 3 and appendices B and C)
    """

    def __init__(
        self, encoder: nn.Module, feature_dim: int, decoder: nn.Module, *, latent_dim: int = 2
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", _OP)
        check_count(latent_dim, "latent_dim", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.to_code = nn.Linear(feature_dim, 2 * latent_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean negative evidence lower bound of a batch, in nats.

        Args:
            inputs: (B, ...) in [0, 1].

        Returns:
            Scalar.

        Raises:
            ValueError: If the batch holds one sample where a batch norm needs two, or encoder or
                decoder return another shape.
        """
        check_views((inputs,), _OP, norms=[self.encoder, self.decoder], name="inputs")
        mean, log_variance = self.codes(inputs)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = decode(self.decoder, code, tuple(inputs.shape[1:]), _OP)
        error = F.binary_cross_entropy_with_logits(logits, inputs, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return (error + divergence) / len(inputs)

    def codes(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the codes of inputs, (B, latent_dim) each."""
        mean, log_variance = self.to_code(
            encode(self.encoder, inputs, self.feature_dim, _OP)
        ).chunk(2, 1)
        return mean, log_variance

    def reconstruct(self, inputs: Tensor) -> Tensor:
        """What the decoder makes of the mean codes of inputs (B, ...), in [0, 1]."""
        mean, _ = self.codes(inputs)
        return decode(self.decoder, mean, tuple(inputs.shape[1:]), _OP).sigmoid()

    def sample(self, count: int) -> Tensor:
        """Means of new inputs, in [0, 1], of codes from the prior and torch's global generator."""
        check_count(count, "count", _OP)
        weight = self.to_code.weight
        made: Tensor = self.decoder(
            torch.randn(count, self.latent_dim, dtype=weight.dtype, device=weight.device)
        )
        return made.sigmoid()
