"""DCL: SimCLR whose loss has the positive out of its denominator."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sslkern.methods.simclr import SimCLR
from sslkern.ops._common import check_positive_number
from sslkern.ops.supcon import dcl_loss


class DCL(SimCLR):
    r"""Decoupled contrastive learning.

    .. math:: \ell_i = -w_i \frac{z_i \cdot z_{\pi(i)}}{\tau} +
              \log \sum_{j \ne i, \pi(i)} e^{z_i \cdot z_j / \tau}

    with projections z of unit norm and the other view :math:`\pi(i)` of the same sample. While a
    pair in the denominator scales its own gradient down, the more the smaller the batch is, here
    nothing does: batches may be small.

    The weights w are 1, or with ``weighted`` (DCLW) larger for pairs that are less alike, for the B
    pairs of each of the two directions

    .. math:: w_i = 2 - B\, \mathrm{softmax}_i(z_i \cdot z_{\pi(i)} / \sigma)

    without a gradient. Encoder, head and views are those of `SimCLR`.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width of the projections.
        temperature: tau.
        weighted: Whether pairs are weighted.
        sigma: Divides the similarities in the weights.

    Raises:
        ValueError: If a width, the temperature or sigma is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import DCL
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = DCL(encoder, feature_dim=32, weighted=True)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: Yeh, Hong, Hsu, Liu, Chen, LeCun: Decoupled Contrastive Learning. 2021.
    https://arxiv.org/abs/2110.06848
    """

    least = 2

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        temperature: float = 0.1,
        weighted: bool = False,
        sigma: float = 0.5,
    ) -> None:
        check_positive_number(sigma, "sigma", "DCL")
        super().__init__(
            encoder,
            feature_dim,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
            temperature=temperature,
            loss=partial(dcl_loss, weight_fn=partial(pair_weights, sigma=sigma))
            if weighted
            else dcl_loss,
        )


@torch.no_grad()
def pair_weights(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """Weights (B,) of mean 1 of pairs of unit rows (B, D): the less alike, the larger."""
    return 2 - len(a) * torch.softmax((a * b).sum(1) / sigma, 0)
