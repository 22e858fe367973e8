"""InfoMin: MoCo whose key is to be found from shuffled tiles as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkern.methods.method import check_views
from sslkern.methods.moco import MoCo
from sslkern.methods.parts.jigsaw import TileEmbedding
from sslkern.methods.parts.schedules import check_share


class InfoMin(MoCo):
    r"""Momentum contrast with a second kind of query, whose view shares less with the key.

    .. math:: \ell = (1 - \beta)\, \ell_{\mathrm{MoCo}}(q, k) +
              \beta\, \ell_{\mathrm{MoCo}}(q^t, k)

    with the query q and the key k of MoCo, and a query :math:`q^t` of a third view that is cut into
    tiles: a head of two layers sees each tile's features, and a linear layer joins what it makes of
    them in a random order. Both have the same queue and the same key.

    This is the method that the paper trains with the views it finds to be good ones, those that
    share no more than the task needs; the views themselves are the user's. The heads are those of
    the authors' code.

    Args:
        encoder: Maps views, and tiles, (N, C, H, W) to features (N, feature_dim), whatever their
            size.
        feature_dim: Width of the encoder's features.
        projection_dim: Width of queries and keys.
        temperature: tau.
        jigsaw_weight: beta, from 0 to 1.
        grid: Tiles along each side, 2 or 3.
        tile_size: Side of a tile in pixels, at most that of the grid's cells.
        settings: ``queue_size``, ``momentum`` and ``key_parts`` as of `MoCo`.

    Raises:
        ValueError: If a size or the temperature is not positive, the grid another one, or the
            momentum or the weight outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import InfoMin
        >>> layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()]
        >>> encoder = torch.nn.Sequential(*layers)
        >>> model = InfoMin(encoder, feature_dim=32, queue_size=256, grid=2, tile_size=4)
        >>> views = torch.rand(3, 16, 1, 8, 8)
        >>> model(views[0], views[1], views[2]).backward()

    Source: Tian et al., "What Makes for Good Views for Contrastive Learning?", 2020,
    https://arxiv.org/abs/2005.10243; with the jigsaw: https://github.com/HobbitLong/PyContrast
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 128,
        temperature: float = 0.15,
        jigsaw_weight: float = 0.5,
        grid: int = 3,
        tile_size: int = 64,
        **settings: Any,
    ) -> None:
        check_share(jigsaw_weight, "jigsaw_weight", "InfoMin")
        super().__init__(
            encoder, feature_dim, projection_dim=projection_dim, temperature=temperature, **settings
        )
        self.tiles = TileEmbedding(
            feature_dim,
            projection_dim,
            self.op,
            grid=grid,
            tile_size=tile_size,
            hidden_dim=feature_dim,
        )
        self.jigsaw_weight = jigsaw_weight

    def forward(self, view_query: Tensor, view_key: Tensor, view_jigsaw: Tensor) -> Tensor:  # type: ignore[override]
        """Return the mean loss of a batch.

        Args:
            view_query: (B, C, H, W); one view of each sample, encoded with a gradient.
            view_key: Same shape; another view of the same samples, for the momentum encoder.
            view_jigsaw: Same shape; a third view, for the tiles.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two
                or are too small for the tiles, or the encoder returns something else than
                (N, feature_dim).
        """
        check_views((view_query, view_key, view_jigsaw), self.op, norms=[self.encoder])
        query, key = self.query_and_key(view_query, view_key)
        query_jigsaw = self.tiles(self.encoder, view_jigsaw)
        losses = self.contrast(query, key), self.contrast(query_jigsaw, key)
        if self.training:
            self.queue.enqueue(key)
        return torch.lerp(*losses, self.jigsaw_weight)
