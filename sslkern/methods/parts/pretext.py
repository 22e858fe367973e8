"""Tasks whose answers images give themselves, solved by classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode


class PretextTask(Method):
    """Cross entropy of the answers to problems that are made of images.

    A subclass makes the problems; what it draws is from torch's global generator. It may refuse
    images, and has the encoder, its width ``feature_dim`` and a ``head`` for the answers.
    """

    feature_dim: int
    head: nn.Module

    def problems(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, ...) of N problems, and their answers (N,) int64."""
        raise NotImplementedError

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores (N, K) of the answers to N problems."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean cross entropy over the problems that are made of a batch.

        Args:
            images: (B, C, H, W).

        Returns:
            Scalar.

        Raises:
            ValueError: If the images or what the encoder returns are of another shape.
        """
        inputs, answers = self.problems(images)
        return F.cross_entropy(self.logits(inputs), answers)

    @torch.no_grad()
    def accuracy(self, images: Tensor) -> Tensor:
        """Share of right answers to problems that are made of images (B, C, H, W); a scalar."""
        inputs, answers = self.problems(images)
        return (self.logits(inputs).argmax(1) == answers).double().mean()

    def encode_parts(self, parts: Tensor) -> Tensor:
        """Features (B, K feature_dim) of K parts of each image, (B, K, C, P, P), side by side.

        The encoder sees all parts as one batch.
        """
        op = type(self).__name__
        flat = parts.flatten(0, 1)
        check_views((flat,), op, norms=[self.encoder], name="parts")
        return encode(self.encoder, flat, self.feature_dim, op).view(len(parts), -1)


def crop_at(images: Tensor, corner: Tensor, size: int) -> Tensor:
    """Cut one square out of each image.

    Args:
        images: (B, C, H, W).
        corner: Row and column of the first pixel of each square, (2, B) int64.
        size: Side P of the squares, which lie within the images.

    Returns:
        (B, C, P, P).
    """
    row, column = corner[..., None] + torch.arange(size, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images[image, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
