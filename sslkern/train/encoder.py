"""The small convolutional encoders that images and signals are trained with."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.data import LabelledImages

SMALLEST_MAP = 2
"""Convolutions halve the sides down to this; no pooling: where a stroke is tells digits apart."""


class ConvEncoder(nn.Module):
    """A convolution of 3 pixels, then others of stride 2 until the map is 2 to 3 pixels wide.

    Images of 8 x 8 take three convolutions and about 93 000 parameters, those of 32 x 32 five. No
    convolution has a bias: the batch norm behind it would subtract it again.

    Args:
        shape: Of an input: (C, H, W), or (C, L) for signals.
        width: Channels of the first convolution; each further one has twice as many, up to
            ``4 * width``.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        channels, size, out = shape[0], min(shape[1:]), width
        convolution, norm = _LAYERS[len(shape) - 1]
        layers: list[nn.Module] = []
        sides = list(shape[1:])
        while True:
            stride = 2 if layers else 1
            layers += [
                convolution(channels, out, 3, stride=stride, padding=1, bias=False),
                norm(out),
                nn.ReLU(),
            ]
            sides = [-(-side // stride) for side in sides]
            size = min(sides)
            if size <= SMALLEST_MAP + 1:
                break
            channels, out = out, min(2 * out, 4 * width)
        self.map_dim = out
        self.map_shape = tuple(sides)
        self.feature_dim = out
        for side in sides:
            self.feature_dim *= side
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def maps(self, images: Tensor) -> Tensor:
        """Map images (B, *shape) to the last feature maps (B, map_dim, *map_shape)."""
        maps: Tensor = self.layers[:-1](images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, *shape) to features (B, feature_dim) of the same dtype."""
        features: Tensor = self.layers(images)
        return features


_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
}


def image_encoder(samples: LabelledImages, width: int = 32) -> ConvEncoder:
    """The encoder for the images of a data set."""
    return ConvEncoder(tuple(samples.images.shape[1:]), width)
