"""DenseCL: MoCo of whole images and, beside it, of the cells of their feature maps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.schedules import check_share
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss


class DenseCL(Method):
    r"""Dense contrastive learning: each cell of a map finds its match in the map of another view.

    .. math:: \ell = (1 - \lambda)\, \ell_{\mathrm{MoCo}}(q, k) + \lambda\,
              \operatorname*{mean}_{i}\, \ell_{\mathrm{MoCo}}(r_i, t_{m(i)}), \quad
              m(i) = \operatorname*{arg\,max}_j \cos(f_i, f'_j)

    The encoder's maps have cells f, those of the momentum encoder and the other view cells f'.
    One head makes q and k of the means of the cells, another one r and t of the cells themselves.
    Which cells match is read from the maps before the heads, without gradient. The cells' terms
    have a queue of their own, of the means of each image's t; both queues are filled after the
    loss, in training mode.

    Heads have two layers without norms, for cells these are convolutions of 1 x 1. All this
    follows the paper and its code, but for the shuffling of keys between devices.

    Args:
        encoder: Maps views (B, ...) to feature maps (B, map_dim, ...), such as (B, C, H, W).
        map_dim: Channels of the maps.
        hidden_dim: Width of the heads' hidden layers; ``map_dim`` if not given.
        projection_dim: Width of queries and keys.
        queue_size: Keys that are kept, of whole images and of cells each.
        temperature: tau.
        momentum: Of the key encoder, from 0 to 1.
        dense_weight: lambda, from 0 to 1.

    Raises:
        ValueError: If a size or the temperature is not positive, or the momentum or the weight is
            outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import DenseCL
        >>> encoder = torch.nn.Conv2d(1, 32, 3, stride=2, padding=1)
        >>> model = DenseCL(encoder, map_dim=32, queue_size=256)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> int(model.queue.position), int(model.dense_queue.position)
        (16, 16)

    Source: Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", 2020,
    https://arxiv.org/abs/2011.09157
    """

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        *,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        queue_size: int = 65536,
        temperature: float = 0.2,
        momentum: float = 0.999,
        dense_weight: float = 0.5,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "DenseCL")
        check_share(dense_weight, "dense_weight", "DenseCL")
        hidden_dim = map_dim if hidden_dim is None else hidden_dim
        check_count(hidden_dim, "hidden_dim", "DenseCL")
        self.encoder = encoder
        self.map_dim = map_dim
        self.head, self.dense_head = (
            mlp([map_dim, hidden_dim, projection_dim], norm="none") for _ in range(2)
        )
        self.teacher = Teacher(nn.ModuleList(self._student()), momentum)
        self.queue, self.dense_queue = (Queue(queue_size, projection_dim) for _ in range(2))
        self.temperature = temperature
        self.dense_weight = dense_weight

    def forward(self, view_query: Tensor, view_key: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_query: (B, ...); one view of each sample, encoded with a gradient.
            view_key: Same shape; another view of the same samples, for the momentum encoder.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two,
                or the encoder returns no maps (B, map_dim, ...).
        """
        check_views((view_query, view_key), "DenseCL", norms=[self.encoder])
        maps, query, dense_query = self._project(self._student(), view_query)
        with torch.no_grad():
            key_maps, key, dense_key = self._project(self.teacher.module.children(), view_key)
            key = F.normalize(key)
            matched = match(maps, key_maps, dense_key)
        whole = info_nce_loss(query, key, self.queue.rows, temperature=self.temperature)
        dense = info_nce_loss(
            dense_query.flatten(0, 1),
            matched.flatten(0, 1),
            self.dense_queue.rows,
            temperature=self.temperature,
        )
        if self.training:
            self.queue.enqueue(key)
            self.dense_queue.enqueue(F.normalize(dense_key.mean(1)))
        return torch.lerp(whole, dense, self.dense_weight)

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.ModuleList(self._student()), progress)

    def _student(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.encoder, self.head, self.dense_head

    def _project(self, modules: Iterable[nn.Module], view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (B, S, map_dim), projections (B, D) of their means and (B, S, D) of themselves."""
        encoder, head, dense_head = modules
        rows = cells(encode_maps(encoder, view, self.map_dim, "DenseCL"))
        return rows, head(rows.mean(1)), dense_head(rows)


def match(rows: Tensor, others: Tensor, values: Tensor) -> Tensor:
    """For each of the rows (B, S, C) the value (B, S, D) of the most similar of the others."""
    cosines = F.normalize(rows, dim=2) @ F.normalize(others, dim=2).transpose(1, 2)
    nearest = cosines.argmax(2)
    return values.gather(1, nearest[..., None].expand(-1, -1, values.shape[2]))
