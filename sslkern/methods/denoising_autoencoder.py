"""Denoising autoencoder: the input is to be made again from a corrupted copy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.reconstruction import decode
from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count, check_not_negative

_OP = "DenoisingAutoencoder"
Corruption = Literal["masking", "gaussian", "salt_and_pepper"]
CORRUPTIONS = ("masking", "gaussian", "salt_and_pepper")
Loss = Literal["squared", "cross_entropy"]
LOSSES = ("squared", "cross_entropy")


class DenoisingAutoencoder(Method):
    r"""Reconstruction of inputs from what noise leaves of them.

    .. math:: \tilde x \sim q(\tilde x \mid x), \quad y = g(f(\tilde x)), \quad
              \ell = \frac{1}{d} \lVert y - x \rVert^2 \ \text{or} \
              -\frac{1}{d} \sum_k x_k \log \hat y_k + (1 - x_k) \log(1 - \hat y_k)

    over the d numbers of an input, with :math:`\hat y = \mathrm{sigmoid}(y)`, and averaged over the
    batch. The papers sum over the numbers. The noise is drawn in each forward pass from torch's
    global generator: ``"masking"`` sets each number to 0 with the probability ``level``,
    ``"salt_and_pepper"`` to 0 or 1, and ``"gaussian"`` adds noise of the standard deviation
    ``level``. Numbers that were corrupted weigh as much as the others.

    Args:
        encoder: Maps inputs (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        decoder: Maps features to the shape of the inputs; logits for ``"cross_entropy"``.
        corruption: ``"masking"``, ``"gaussian"`` or ``"salt_and_pepper"``.
        level: Of the noise; at most 1 but for ``"gaussian"``.
        loss: ``"squared"``, or ``"cross_entropy"`` for inputs in [0, 1].

    Raises:
        ValueError: If the width is not positive, the level out of its range, or an option unknown.
        TypeError: If a number is none.

    Example:
        >>> import torch
        >>> from sslkern.methods import DenoisingAutoencoder
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Unflatten(1, (1, 8, 8)))
        >>> model = DenoisingAutoencoder(encoder, 32, decoder)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images).backward()
        >>> model.reconstruct(images).shape
        torch.Size([16, 1, 8, 8])

    Source: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders",
    2008, https://dl.acm.org/doi/10.1145/1390156.1390294; Vincent et al., "Stacked Denoising
    Autoencoders", 2010, https://jmlr.org/papers/v11/vincent10a.html
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        decoder: nn.Module,
        *,
        corruption: Corruption = "masking",
        level: float = 0.25,
        loss: Loss = "squared",
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", _OP)
        for name, value, known in (
            ("corruption", corruption, CORRUPTIONS),
            ("loss", loss, LOSSES),
        ):
            if value not in known:
                refuse(_OP, name, f"one of {', '.join(known)}", repr(value))
        (check_not_negative if corruption == "gaussian" else check_share)(level, "level", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.decoder = decoder
        self.corruption = corruption
        self.level = level
        self.loss = loss

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            inputs: (B, ...), what is to be made again.

        Returns:
            Scalar.

        Raises:
            ValueError: If the batch holds one sample where a batch norm needs two, or encoder or
                decoder return another shape.
        """
        check_views((inputs,), _OP, norms=[self.encoder, self.decoder], name="inputs")
        made = self._decode(self.corrupt(inputs))
        if self.loss == "squared":
            return F.mse_loss(made, inputs)
        return F.binary_cross_entropy_with_logits(made, inputs)

    def corrupt(self, inputs: Tensor) -> Tensor:
        """Inputs with noise from torch's global generator."""
        if self.corruption == "gaussian":
            return inputs + self.level * torch.randn_like(inputs)
        hit = torch.rand_like(inputs) < self.level
        if self.corruption == "masking":
            return inputs.masked_fill(hit, 0.0)
        return torch.where(hit, torch.rand_like(inputs).round(), inputs)

    def reconstruct(self, inputs: Tensor) -> Tensor:
        """What encoder and decoder make of inputs (B, ...) as they are; of the same shape."""
        made = self._decode(inputs)
        return made if self.loss == "squared" else made.sigmoid()

    def _decode(self, inputs: Tensor) -> Tensor:
        features = encode(self.encoder, inputs, self.feature_dim, _OP)
        return decode(self.decoder, features, tuple(inputs.shape[1:]), _OP)
