"""The small convolutional encoder that the digits are trained with."""

from __future__ import annotations

from torch import Tensor, nn


class DigitEncoder(nn.Module):
    """Three 3x3 convolutions for images of 8x8 pixels; about 93 000 parameters.

    No convolution has a bias: the batch norm behind it would subtract it again.

    Args:
        width: Channels of the first convolution; the others have 2 and 4 times as many.
    """

    def __init__(self, width: int = 32) -> None:
        """Build the layers."""
        super().__init__()
        self.feature_dim = 4 * width * 2 * 2
        self.layers = nn.Sequential(
            *_block(1, width, stride=1),
            *_block(width, 2 * width, stride=2),  # 8x8 -> 4x4
            *_block(2 * width, 4 * width, stride=2),  # 4x4 -> 2x2
            nn.Flatten(),  # no pooling: where a stroke is tells digits apart
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, 8, 8) to features (B, feature_dim) of the same dtype."""
        features: Tensor = self.layers(images)
        return features


def _block(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]
