"""MoCo: queries against keys of a momentum encoder and a queue of earlier keys."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops.info_nce import info_nce_loss


class MoCo(Method):
    r"""Momentum contrast, versions 1 and 2.

    .. math:: \ell = -\log \frac{e^{q \cdot k_+ / \tau}}
              {e^{q \cdot k_+ / \tau} + \sum_{j} e^{q \cdot k_j / \tau}}

    with the query q of one view, its key :math:`k_+` from the momentum encoder and the other view,
    and the queue's keys :math:`k_j`. Keys take no gradient. In training mode the keys of a batch
    enter the queue after the loss.

    Version 1 has a linear head and :math:`\tau = 0.07`; version 2 a head of two layers and
    :math:`\tau = 0.2`. Queries and keys are encoded apart, and so are their batch norms'
    statistics; the key encoder keeps its own.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        version: 1 or 2.
        projection_dim: Width D of queries and keys.
        queue_size: Keys that are kept.
        temperature: tau; that of the version if not given.
        momentum: Of the key encoder, from 0 to 1.

    Raises:
        ValueError: If a size or the temperature is not positive, or the momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import MoCo
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = MoCo(encoder, feature_dim=32, queue_size=256)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()
        >>> int(model.queue.position)
        16

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
    https://arxiv.org/abs/1911.05722; Chen et al., "Improved Baselines with Momentum Contrastive
    Learning", 2020, https://arxiv.org/abs/2003.04297
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        version: Literal[1, 2] = 2,
        projection_dim: int = 128,
        queue_size: int = 65536,
        temperature: float | None = None,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        if version not in (1, 2):
            refuse("MoCo", "version", "1 or 2 (version 3 is MoCoV3)", version)
        temperature = (0.07 if version == 1 else 0.2) if temperature is None else temperature
        check_positive_number(temperature, "temperature", "MoCo")
        hidden = [] if version == 1 else [feature_dim]
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, *hidden, projection_dim], norm="none")
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum)
        self.queue = Queue(queue_size, projection_dim)
        self.temperature = temperature

    def forward(self, view_query: Tensor, view_key: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_query: (B, ...); one view of each sample, encoded with a gradient.
            view_key: Same shape; another view of the same samples, for the momentum encoder.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two,
                or the encoder returns something else than (B, feature_dim).
        """
        check_views((view_query, view_key), "MoCo", norms=[self.encoder])
        query = self.head(encode(self.encoder, view_query, self.feature_dim, "MoCo"))
        key = nn.functional.normalize(self.teacher(view_key))
        loss = info_nce_loss(query, key, self.queue.rows, temperature=self.temperature)
        if self.training:
            self.queue.enqueue(key)
        return loss

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)
