"""Small networks that make images or judge them."""

from __future__ import annotations

import math

from torch import Tensor, nn


class ConvDecoder(nn.Module):
    """A linear map to feature maps of a quarter of the sides, doubled twice by convolutions.

    Args:
        dim: Width of the input.
        shape: Of an image, (C, H, W), with sides that are multiples of 4.
        width: Channels before the last convolution.
    """

    def __init__(self, dim: int, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        channels, rows, columns = shape
        maps = (2 * width, rows // 4, columns // 4)
        self.layers = nn.Sequential(
            nn.Linear(dim, math.prod(maps)),
            nn.ReLU(),
            nn.Unflatten(1, maps),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes (B, dim) to images (B, C, H, W)."""
        images: Tensor = self.layers(codes)
        return images


def generator(dim: int, shape: tuple[int, ...], width: int = 128) -> nn.Sequential:
    """A perceptron with batch norms: codes (B, dim) -> images (B, C, H, W) in [0, 1]."""
    layers: list[nn.Module] = []
    for before, after in ((dim, width), (width, 2 * width)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    last = [nn.Linear(2 * width, math.prod(shape)), nn.Sigmoid(), nn.Unflatten(1, shape)]
    return nn.Sequential(*layers, *last)


def perceptron_encoder(shape: tuple[int, ...], width: int = 128) -> nn.Sequential:
    """Images (B, C, H, W) -> features (B, width).

    It has no norms: in a discriminator real and made images would be of different batches.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
    )


def perceptron_decoder(dim: int, shape: tuple[int, ...], width: int = 128) -> nn.Sequential:
    """Codes (B, dim) -> images (B, C, H, W)."""
    hidden = [nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, math.prod(shape)), nn.Unflatten(1, shape))


def discriminator(shape: tuple[int, ...], width: int = 128) -> nn.Sequential:
    """Images (B, C, H, W) -> the logit of being real, (B, 1)."""
    return nn.Sequential(perceptron_encoder(shape, width), nn.Linear(width, 1))
