"""DetCo: MoCo at several levels of a network, of whole images and of their patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count, check_not_negative
from sslkern.ops.info_nce import info_nce_loss

Projections = tuple[Tensor, Tensor]
"""Of a level: of whole images and of their patches, (B, D) each."""


class DetCo(Method):
    r"""Contrast of images and patches, at every level of the encoder.

    .. math:: \ell = \sum_i w_i \left( \ell_{\mathrm{MoCo}}(g_i, g'_i) +
              \ell_{\mathrm{MoCo}}(l_i, l'_i) + \ell_{\mathrm{MoCo}}(l_i, g'_i) \right)

    with the projection :math:`g_i` of a whole view at level i, that of its patches, :math:`l_i`,
    and those of the momentum encoder and the other view. The patches go through the encoder one
    by one; the features of the patches of an image are joined in their order before the head.
    Each level has two queues, of keys of images and of patches, which are filled after the loss in
    training mode.

    Levels, weights and the three terms follow the paper, with four levels and nine patches of a
    jigsaw. Heads have two layers without norms, those of MoCo version 2. Cutting the patches is
    left to the data.

    Args:
        encoder: Maps views (N, ...), and patches, to a list of features (N, feature_dims[i]).
        feature_dims: Width of the features of each level.
        patches: Number P of patches of an image.
        projection_dim: Width D of queries and keys.
        queue_size: Keys of each queue.
        temperature: tau.
        momentum: Of the key encoder, from 0 to 1.
        weights: w, one for each level, not negative.

    Raises:
        ValueError: If a size or the temperature is not positive, there is not one weight for each
            level, a weight is negative, or the momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import DetCo
        >>> class Encoder(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = torch.nn.LazyConv2d(8, 3), torch.nn.LazyConv2d(16, 1)
        ...     def forward(self, images):
        ...         maps = self.first(images).relu()
        ...         return [maps.mean((2, 3)), self.second(maps).mean((2, 3))]
        >>> encoder = Encoder()
        >>> _ = encoder(torch.rand(1, 1, 8, 8))
        >>> model = DetCo(encoder, (8, 16), patches=4, queue_size=256, weights=(0.5, 1.0))
        >>> views, patches = torch.rand(2, 16, 1, 8, 8), torch.rand(2, 16, 4, 1, 4, 4)
        >>> model(views[0], views[1], patches[0], patches[1]).backward()

    Source: Xie et al., "DetCo: Unsupervised Contrastive Learning for Object Detection", 2021,
    https://arxiv.org/abs/2102.04803
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dims: Sequence[int],
        *,
        patches: int = 9,
        projection_dim: int = 128,
        queue_size: int = 65536,
        temperature: float = 0.2,
        momentum: float = 0.999,
        weights: Sequence[float] = (0.1, 0.4, 0.7, 1.0),
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "DetCo")
        check_count(patches, "patches", "DetCo")
        _check_levels(feature_dims, weights)
        self.encoder = encoder
        self.feature_dims = list(feature_dims)
        self.patches = patches
        self.heads = nn.ModuleList(
            mlp([dim, dim, projection_dim], norm="none") for dim in feature_dims
        )
        self.patch_heads = nn.ModuleList(
            mlp([patches * dim, dim, projection_dim], norm="none") for dim in feature_dims
        )
        self.teacher = Teacher(nn.ModuleList(self._student()), momentum)
        self.levels = nn.ModuleList(
            _Level(queue_size, projection_dim, temperature) for _ in feature_dims
        )
        self.weights = list(weights)

    def forward(
        self, view_query: Tensor, view_key: Tensor, patches_query: Tensor, patches_key: Tensor
    ) -> Tensor:
        """Return the weighted sum of the mean losses of a batch.

        Args:
            view_query: (B, ...); one view of each sample, encoded with a gradient.
            view_key: Same shape; another view of the same samples, for the momentum encoder.
            patches_query: Patches (B, P, ...) of a view of each sample, encoded with a gradient.
            patches_key: Same shape; patches of another view, for the momentum encoder.

        Returns:
            Scalar.

        Raises:
            ValueError: If views or patches differ in shape or number, there is one sample where a
                batch norm needs two, or the encoder returns other features than
                (N, feature_dims[i]) for each level i.
        """
        check_views((view_query, view_key), "DetCo", norms=[self.encoder])
        self._check_patches(patches_query, patches_key, len(view_query))
        queries = self._project(self._student(), view_query, patches_query)
        with torch.no_grad():
            teacher = self.teacher.module.children()
            keys = self._project(teacher, view_key, patches_key)
        pairs = zip(self.weights, self.levels, queries, keys, strict=True)
        return torch.stack([weight * level(*q, *k) for weight, level, q, k in pairs]).sum()

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.ModuleList(self._student()), progress)

    def _student(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.encoder, self.heads, self.patch_heads

    def _project(
        self, modules: Iterable[nn.Module], view: Tensor, patches: Tensor
    ) -> list[Projections]:
        """Of each level."""
        encoder, heads, patch_heads = modules
        whole = self._encode(encoder, view)
        joined = [x.reshape(len(view), -1) for x in self._encode(encoder, patches.flatten(0, 1))]
        levels = zip(heads.children(), whole, patch_heads.children(), joined, strict=True)
        return [(head(x), patch_head(y)) for head, x, patch_head, y in levels]

    def _encode(self, encoder: nn.Module, inputs: Tensor) -> list[Tensor]:
        features = list(encoder(inputs))
        expected = [(len(inputs), dim) for dim in self.feature_dims]
        shapes = [tuple(x.shape) for x in features]
        if shapes != expected:
            refuse("DetCo", "encoder", f"a module that returns a list of shapes {expected}", shapes)
        return features

    def _check_patches(self, query: Tensor, key: Tensor, batch: int) -> None:
        for name, patches in (("patches_query", query), ("patches_key", key)):
            if patches.dim() < 3 or patches.shape[:2] != (batch, self.patches):
                requirement = f"of shape ({batch}, {self.patches}, ...)"
                refuse("DetCo", name, requirement, f"shape {tuple(patches.shape)}")
        if key.shape != query.shape:
            requirement = f"of the shape of patches_query, {tuple(query.shape)}"
            refuse("DetCo", "patches_key", requirement, f"shape {tuple(key.shape)}")


class _Level(nn.Module):
    """The queues of a level, and its loss."""

    def __init__(self, queue_size: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.images, self.patches = (Queue(queue_size, dim) for _ in range(2))
        self.temperature = temperature

    def forward(
        self, image: Tensor, patches: Tensor, image_key: Tensor, patch_key: Tensor
    ) -> Tensor:
        """The three terms of projections (B, D); in training mode the keys are remembered."""
        image_key, patch_key = F.normalize(image_key), F.normalize(patch_key)
        terms = (
            (image, image_key, self.images),
            (patches, patch_key, self.patches),
            (patches, image_key, self.images),
        )
        losses = [
            info_nce_loss(query, key, queue.rows, temperature=self.temperature)
            for query, key, queue in terms
        ]
        if self.training:
            self.images.enqueue(image_key)
            self.patches.enqueue(patch_key)
        return torch.stack(losses).sum()


def _check_levels(feature_dims: Sequence[int], weights: Sequence[float]) -> None:
    if len(feature_dims) == 0:
        refuse("DetCo", "feature_dims", "at least one width", "none")
    for dim in feature_dims:
        check_count(dim, "feature_dims", "DetCo")
    if len(weights) != len(feature_dims):
        requirement = f"one for each of the {len(feature_dims)} levels"
        refuse("DetCo", "weights", requirement, list(weights))
    for weight in weights:
        check_not_negative(weight, "weights", "DetCo")
