"""Patch localization: where a second patch of an image lies, seen from a first one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import check_whole
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.pretext import PretextTask, crop_at
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count

_OP = "PatchLocalization"
_NOISE = 0.01
"""Standard deviation of what replaces a dropped colour, relative to that of the kept one."""


class PatchLocalization(PretextTask):
    r"""Classification of the eight places around a patch of an image.

    .. math:: \ell = -\frac{1}{B} \sum_i \log \mathrm{softmax}(g([f(p_i), f(q_i)]))_{y_i}

    The patch p is the middle one of a grid of 3 x 3 that lies at random in the image, and q one of
    the eight around it, y = 0 to 7 row by row. A gap between the patches and a random shift of each
    keep lines that go on from one to the other from giving the answer away. Both go through the
    same encoder; the head g is a perceptron of two layers.

    The lens of a camera shifts colours by place, which the paper found to be enough of an answer:
    with ``drop_colors`` each patch keeps one channel, drawn at random, and gets weak noise in the
    others. The paper also resamples some patches coarsely, which is left to the caller.

    Args:
        encoder: Maps patches (B, C, P, P) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        patch_size: Side P of a patch in pixels.
        gap: Pixels between neighbours before they are shifted.
        jitter: Largest shift of a patch along each axis, in pixels.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        drop_colors: Whether each patch keeps one channel only.

    Raises:
        ValueError: If a size is not positive, or the gap or the jitter is negative.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import PatchLocalization
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 32))
        >>> model = PatchLocalization(encoder, feature_dim=32, patch_size=4, gap=1, jitter=0)
        >>> images = torch.rand(5, 3, 16, 16)
        >>> model(images).backward()
        >>> pairs, places = model.problems(images)
        >>> pairs.shape, model.logits(pairs).shape
        (torch.Size([5, 2, 3, 4, 4]), torch.Size([5, 8]))

    Source: Doersch, Gupta, Efros, "Unsupervised Visual Representation Learning by Context
    Prediction", 2015, https://arxiv.org/abs/1505.05192
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        patch_size: int = 96,
        gap: int = 48,
        jitter: int = 7,
        hidden_dim: int | None = None,
        drop_colors: bool = False,
    ) -> None:
        super().__init__()
        check_count(patch_size, "patch_size", _OP)
        check_whole(gap, "gap", _OP)
        check_whole(jitter, "jitter", _OP)
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([2 * feature_dim, hidden_dim, 8], norm="none")
        self.patch_size = patch_size
        self.gap = gap
        self.jitter = jitter
        self.drop_colors = drop_colors

    def problems(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Two patches of each image, and where the second one lies.

        Args:
            images: (B, C, H, W), of sides that the grid and the jitter fit into.

        Returns:
            (B, 2, C, P, P), and (B,) int64 from 0 to 7.

        Raises:
            ValueError: If the images are too small.
        """
        room = self._room(images)
        batch, device = len(images), images.device
        place = torch.randint(8, (batch,), device=device)
        origin = (torch.rand(2, batch, device=device) * (room.to(device) + 1)).long()
        shift = torch.randint(2 * self.jitter + 1, (2, 2, batch), device=device)
        cell = place + (place >= 4)  # the middle one is the first patch
        pitch = self.patch_size + self.gap
        first = origin + shift[0] + pitch
        second = origin + shift[1] + pitch * torch.stack([cell // 3, cell % 3])
        pair = [crop_at(images, corner, self.patch_size) for corner in (first, second)]
        patches = torch.stack(pair, 1)
        return (_drop_colors(patches) if self.drop_colors else patches), place

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores (B, 8) of the places for pairs (B, 2, C, P, P)."""
        scores: Tensor = self.head(self.encode_parts(inputs))
        return scores

    def _room(self, images: Tensor) -> Tensor:
        """How far the grid can move along both axes, (2, 1)."""
        check_tensor(images, "images", _OP)
        least = 3 * self.patch_size + 2 * self.gap + 2 * self.jitter
        if images.dim() != 4 or min(images.shape[2:]) < least or len(images) == 0:
            requirement = f"of shape (B, C, H, W) with sides of at least {least}"
            refuse(_OP, "images", requirement, f"shape {tuple(images.shape)}")
        return torch.tensor(images.shape[2:])[:, None] - least


def _drop_colors(patches: Tensor) -> Tensor:
    """Patches (B, 2, C, P, P) of which one channel each is kept; the others become weak noise."""
    channels = torch.arange(patches.shape[2], device=patches.device)
    kept = torch.randint(patches.shape[2], patches.shape[:2], device=patches.device)
    spread = patches.std((3, 4), keepdim=True)
    keep = (channels == kept[..., None])[..., None, None]
    spread = (spread * keep).sum(2, keepdim=True)
    return torch.where(keep, patches, _NOISE * spread * torch.randn_like(patches))
