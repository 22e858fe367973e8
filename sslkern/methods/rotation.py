"""Rotation: an encoder learns by which multiple of a right angle an image was turned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import check_views, encode
from sslkern.methods.parts.pretext import PretextTask
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count

_OP = "Rotation"


class Rotation(PretextTask):
    r"""Classification of four rotations of each image.

    .. math:: \ell = -\frac{1}{4B} \sum_i \sum_{k=0}^{3}
              \log \mathrm{softmax}(W f(\mathrm{rot}(x_i, 90^\circ k)) + b)_k

    All four copies of each image are in the batch, as in the paper, which found this better than
    one drawn at random. They are turned counterclockwise, and no pixel is interpolated.

    Args:
        encoder: Maps images (B, C, S, S) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.

    Raises:
        ValueError: If the width is not positive.
        TypeError: If the width is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import Rotation
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = Rotation(encoder, feature_dim=32)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images).backward()
        >>> turned, multiples = model.problems(images)
        >>> model.logits(turned).shape
        torch.Size([64, 4])

    Source: Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image
    Rotations", 2018, https://arxiv.org/abs/1803.07728
    """

    def __init__(self, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, 4)

    def problems(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All images as they are, all turned by 90 degrees, and so on; and the multiples.

        Args:
            images: (B, C, S, S).

        Returns:
            (4B, C, S, S), and (4B,) int64 from 0 to 3.

        Raises:
            ValueError: If the images are not square.
        """
        check_tensor(images, "images", _OP)
        if images.dim() != 4 or images.shape[2] != images.shape[3]:
            refuse(_OP, "images", "of shape (B, C, S, S)", f"shape {tuple(images.shape)}")
        check_views((images,), _OP, name="images")
        turned = torch.cat([images.rot90(k, (2, 3)) for k in range(4)])
        return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores (N, 4) of the rotations of images (N, C, S, S)."""
        scores: Tensor = self.head(encode(self.encoder, inputs, self.feature_dim, _OP))
        return scores
