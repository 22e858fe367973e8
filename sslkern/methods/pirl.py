"""PIRL: an image and its shuffled tiles are to be found in the memory at the image's row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.instances import InstanceClassifier
from sslkern.methods.parts.jigsaw import TileEmbedding
from sslkern.methods.parts.schedules import check_share


class PIRL(Method):
    r"""Pretext-invariant representations, with the jigsaw as the pretext.

    .. math:: \ell = \lambda\, L(m_i, g(x^t)) + (1 - \lambda)\, L(m_i, h(x))

    Here x is a view of sample i, :math:`x^t` another one that is cut into tiles; h is a linear head
    over the encoder's features of the whole view, and g joins what a linear head makes of each
    tile, in a random order. The memory has a row :math:`m_i` of unit norm for each sample, a moving
    average of h(x). L is the loss of instance discrimination against that memory: noise-contrastive
    estimation, or a softmax over all rows.

    Losses and memory follow the authors' code, which tells the row from K others of the memory for
    either term, with one Z that is estimated from the first batch. In the paper's formula the
    normalizer is the sum over the negatives of the batch instead.

    Args:
        encoder: Maps views, and tiles, (N, C, H, W) to features (N, feature_dim), whatever their
            size.
        feature_dim: Width of the encoder's features.
        samples: Number n of samples in the training set.
        projection_dim: Width of the embeddings.
        negatives: K; 0 for the softmax over all rows.
        temperature: tau.
        momentum: Of the memory, from 0 to 1.
        jigsaw_weight: lambda, from 0 to 1.
        grid: Tiles along each side, 2 or 3.
        tile_size: Side of a tile in pixels, at most that of the grid's cells.

    Raises:
        ValueError: If a size or the temperature is not positive, the number of negatives is
            negative, the grid another one, or the momentum or the weight outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import PIRL
        >>> layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()]
        >>> encoder = torch.nn.Sequential(*layers)
        >>> model = PIRL(encoder, 32, samples=1000, negatives=100, grid=2, tile_size=4)
        >>> images, index = torch.rand(2, 16, 1, 8, 8), torch.arange(16)
        >>> model(images[0], images[1], index).backward()

    Source: Misra, van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations",
    2019, https://arxiv.org/abs/1912.01991
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        projection_dim: int = 128,
        negatives: int = 32000,
        temperature: float = 0.07,
        momentum: float = 0.5,
        jigsaw_weight: float = 0.5,
        grid: int = 3,
        tile_size: int = 64,
    ) -> None:
        super().__init__()
        check_share(jigsaw_weight, "jigsaw_weight", "PIRL")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, projection_dim])
        self.tiles = TileEmbedding(
            feature_dim, projection_dim, "PIRL", grid=grid, tile_size=tile_size
        )
        self.instances = InstanceClassifier(
            samples,
            projection_dim,
            "PIRL",
            negatives=negatives,
            temperature=temperature,
            momentum=momentum,
            init="sphere",
        )
        self.jigsaw_weight = jigsaw_weight

    def forward(self, view: Tensor, view_jigsaw: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view: (B, C, H, W); a view of each sample.
            view_jigsaw: Same shape; another view of the same samples, for the tiles.
            index: Which samples of the training set these are, (B,) int64.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two
                or are too small for the tiles, the index does not fit, or the encoder returns
                something else than (N, feature_dim).
            TypeError: If the index is not int64.
        """
        check_views((view, view_jigsaw), "PIRL", norms=[self.encoder])
        z = self.head(encode(self.encoder, view, self.feature_dim, "PIRL"))
        z_jigsaw = self.tiles(self.encoder, view_jigsaw)
        whole, jigsaw = self.instances(index, z, z_jigsaw)
        if self.training:
            self.instances.remember(index, z)
        return torch.lerp(whole, jigsaw, self.jigsaw_weight)
