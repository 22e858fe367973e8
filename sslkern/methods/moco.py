"""MoCo: queries against keys of a momentum encoder and a queue of earlier keys."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode, normalizes_batches
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.info_nce import info_nce_loss


class MoCo(Method):
    r"""Momentum contrast, versions 1 and 2.

    .. math:: \ell = -\log \frac{e^{q \cdot k_+ / \tau}}
              {e^{q \cdot k_+ / \tau} + \sum_{j} e^{q \cdot k_j / \tau}}

    with the query q of one view, its key :math:`k_+` from the momentum encoder and the other view,
    and the queue's keys :math:`k_j`. Keys take no gradient. In training mode the keys of a batch
    enter the queue after the loss.

    Version 1 has a linear head and :math:`\tau = 0.07`; version 2 a head of two layers and
    :math:`\tau = 0.2`. Queries and keys are encoded apart. Where a query and its key are normalized
    within the same samples, the statistics tell which key is the right one; several parts, drawn
    at random, of which the key encoder sees one at a time, hide that (the papers' shuffling).

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        version: 1 or 2.
        projection_dim: Width D of queries and keys.
        queue_size: Keys that are kept.
        temperature: tau; that of the version if not given.
        momentum: Of the key encoder, from 0 to 1.
        key_parts: Parts of the batch for the key encoder, as equal as can be; 1 keeps it whole.

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
        key_parts: int = 1,
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        if version not in (1, 2):
            refuse(self.op, "version", "1 or 2 (version 3 is MoCoV3)", version)
        temperature = (0.07 if version == 1 else 0.2) if temperature is None else temperature
        check_positive_number(temperature, "temperature", self.op)
        hidden = [] if version == 1 else [feature_dim]
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, *hidden, projection_dim], norm="none")
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum)
        self.queue = Queue(queue_size, projection_dim)
        self.temperature = temperature
        check_count(key_parts, "key_parts", self.op)
        self.key_parts = key_parts

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
        query, key = self.query_and_key(view_query, view_key)
        loss = self.contrast(query, key)
        if self.training:
            self.queue.enqueue(key)
        return loss

    def query_and_key(self, view_query: Tensor, view_key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, D), and keys of unit norm, of the checked views."""
        check_views((view_query, view_key), self.op, norms=[self.encoder])
        check_parts(view_key, self.key_parts, self.op, self.teacher)
        query = self.head(encode(self.encoder, view_query, self.feature_dim, self.op))
        return query, nn.functional.normalize(in_parts(self.teacher, view_key, self.key_parts))

    def contrast(self, query: Tensor, key: Tensor) -> Tensor:
        """Mean loss of queries against their keys and the queue."""
        return info_nce_loss(query, key, self.queue.rows, temperature=self.temperature)

    def update(self, progress: float = 0.0) -> None:
        """Move the momentum encoder, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)


def in_parts(module: nn.Module, batch: Tensor, parts: int) -> Tensor:
    """What the module makes of a batch that it sees shuffled and in parts, in the batch's order."""
    if parts == 1:
        out: Tensor = module(batch)
        return out
    # No randperm: torch 2.13 does not compile taking rows in its order.
    order = torch.rand(len(batch), device=batch.device).argsort()
    shuffled = torch.cat([module(part) for part in batch[order].tensor_split(parts)])
    return shuffled[order.argsort()]


def check_parts(batch: Tensor, parts: int, op: str, module: nn.Module) -> None:
    """Reject parts of fewer samples than a batch norm needs."""
    least = (2 if normalizes_batches(module) else 1) * parts
    if len(batch) < least:
        refuse(op, "a batch", f"of at least {least} samples for {parts} parts", len(batch))
