"""Video triplets: two patches of a track are closer to each other than to those of other tracks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode_views
from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import accumulate_dtype, check_positive_number, refuse
from sslkern.ops._embeddings import check_count


class VideoTriplet(Method):
    r"""Ranking of patches that a tracker found in videos.

    .. math:: \ell = \operatorname*{mean}_{i,\, n}\; \max \big( 0,\; D(x_i, x_i^+) - D(x_i, x_n^-)
              + M \big), \quad D(x, y) = 1 - \cos(f(x), f(y))

    The first patch of a track is the anchor, the last one its positive, the last patches of other
    tracks of the batch are negatives. Of these each anchor has a few: drawn at random at first, the
    closest ones, whose loss is largest, for the rest of the training.

    As in the paper, with its margin and number of negatives; its decay of the weights is left to
    the optimizer. Its features are those of a network for whole patches.

    Args:
        encoder: Maps patches (B, ...) to features (B, feature_dim).
        feature_dim: Width of the features.
        margin: M.
        negatives: Of each anchor.
        hard_from: Share of the training, from 0 to 1, after which negatives are the closest ones.

    Raises:
        ValueError: If a size or the margin is not positive, or the share outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import VideoTriplet
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = VideoTriplet(encoder, feature_dim=32)
        >>> first = torch.rand(16, 1, 8, 8)
        >>> model(first, first + 0.1 * torch.randn_like(first)).backward()
        >>> model.update(progress=0.6)  # negatives are the closest ones from here on

    Source: Wang, Gupta, "Unsupervised Learning of Visual Representations using Videos", 2015,
    https://arxiv.org/abs/1505.00687
    """

    progress: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        margin: float = 0.5,
        negatives: int = 4,
        hard_from: float = 0.5,
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", "VideoTriplet")
        check_positive_number(margin, "margin", "VideoTriplet")
        check_count(negatives, "negatives", "VideoTriplet")
        check_share(hard_from, "hard_from", "VideoTriplet")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.margin = margin
        self.negatives = negatives
        self.hard_from = hard_from
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """Return the mean loss of a batch of tracks.

        Args:
            first: (B, ...), a patch of each track, more of them than negatives.
            last: Same shape; another patch of the same tracks in the same order.

        Returns:
            Scalar.

        Raises:
            ValueError: If the patches differ in shape, are too few for the negatives, or the
                encoder returns something else than (2 B, feature_dim) for them.
        """
        check_views((first, last), "VideoTriplet")
        if len(first) <= self.negatives:
            requirement = f"of more tracks than the {self.negatives} negatives"
            refuse("VideoTriplet", "a batch", requirement, len(first))
        features = encode_views(self.encoder, (first, last), self.feature_dim, "VideoTriplet")
        rows = F.normalize(features.to(accumulate_dtype(features)), dim=1)
        with torch.autocast(rows.device.type, enabled=False):
            distance = 1 - rows[: len(first)] @ rows[len(first) :].T
        near = distance.diagonal()[:, None]
        far = distance.gather(1, self._choose(distance.detach()))
        return (near - far + self.margin).relu().mean()

    def _choose(self, distance: Tensor) -> Tensor:
        """Indices (B, K) of the negatives, by their distances (B, B) from the anchors."""
        hard = self.progress >= self.hard_from
        draws = torch.rand(distance.shape, dtype=distance.dtype, device=distance.device)
        order = torch.where(hard, distance, draws).fill_diagonal_(torch.inf)
        return order.topk(self.negatives, dim=1, largest=False).indices

    def update(self, progress: float = 0.0) -> None:
        """Take note of the progress, which decides how negatives are chosen."""
        self.progress.fill_(progress)
