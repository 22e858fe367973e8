"""Triplets: an anchor is closer to its positive than to one negative, by a margin."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sslkern.methods.joint_embedding import JointEmbedding
from sslkern.ops._common import refuse

Mining = Literal["random", "hardest"]


class Triplet(JointEmbedding):
    r"""The margin loss of triplets of embeddings at unit norm.

    .. math:: \ell = \frac{1}{B} \sum_i
              \max\bigl(0,\; \lVert a_i - p_i \rVert^2 - \lVert a_i - n_i \rVert^2 + m\bigr)

    One view is the anchor a, the other one its positive p. The negative n is the other view of
    another sample of the batch: any, drawn anew for each loss, or that which is closest to the
    anchor. Hardest negatives may drive all embeddings into one at first, the more so in large
    batches; the loss then stays at the margin.

    The margin is that of the paper, which takes positives by label, and negatives between the two
    kinds: those farther than the positive, by less than the margin.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        projection_dim: Width D of the embeddings.
        hidden_dim: Width of the head's hidden layer; the head is linear if not given.
        margin: m, positive.
        mining: ``"random"`` or ``"hardest"`` negatives.

    Raises:
        ValueError: If a width or the margin is not positive, or the kind of negatives unknown.

    Example:
        >>> import torch
        >>> from sslkern.methods import Triplet
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = Triplet(encoder, feature_dim=32, mining="hardest")
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images, images + 0.1 * torch.randn_like(images)).backward()

    Source: Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and
    Clustering", 2015, https://arxiv.org/abs/1503.03832
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        projection_dim: int = 128,
        hidden_dim: int | None = None,
        margin: float = 0.2,
        mining: Mining = "random",
    ) -> None:
        super().__init__(
            encoder,
            feature_dim,
            projection_dim=projection_dim,
            hidden_dim=hidden_dim,
            margin=margin,
        )
        if mining not in get_args(Mining):
            refuse(self.op, "mining", "'random' or 'hardest'", repr(mining))
        self.mining = mining

    def negatives(self, energy: Tensor) -> Tensor:
        """Energy (B, 1) of each anchor's negative."""
        others = super().negatives(energy)
        if self.mining == "hardest":
            return others.amin(1, keepdim=True)
        drawn = torch.randint(others.shape[1], (len(others), 1), device=others.device)
        return others.gather(1, drawn)
