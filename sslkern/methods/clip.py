"""CLIP: an image finds its text among those of the batch, and a text its image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sslkern.methods.parts.dual_encoder import DualEncoder
from sslkern.ops._common import check_positive_number
from sslkern.ops.info_nce import clip_loss

MOST_SCALE = 100.0
"""What logits are multiplied by at most."""


class CLIP(DualEncoder):
    r"""Contrastive learning of images and texts that belong together.

    With unit rows :math:`x_i` of images and :math:`t_i` of texts, from the encoders' features by
    linear maps without bias, and a learned scale :math:`s`:

    .. math:: \ell = -\frac{1}{2N} \sum_i \left(
              \log \frac{e^{s\,x_i \cdot t_i}}{\sum_j e^{s\,x_i \cdot t_j}} +
              \log \frac{e^{s\,x_i \cdot t_i}}{\sum_j e^{s\,x_j \cdot t_i}} \right)

    The parameter is :math:`\log s`. `update` keeps it between 0 and :math:`\ln 100`, as the code of
    open_clip does after each step; the paper says only that s is at most 100. Texts are whatever
    the text encoder takes; the paper's transformers are left to the user.

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim).
        text_encoder: Maps texts (B, ...) to features (B, text_dim).
        feature_dim: Width of the image encoder's features.
        text_dim: Width of the text encoder's features.
        projection_dim: Width D of the space in which both are compared.
        temperature: 1 / s at the start.

    Raises:
        ValueError: If a width or the temperature is not positive.
        TypeError: If a width is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import CLIP
        >>> image_encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> text_encoder = torch.nn.EmbeddingBag(100, 16)
        >>> model = CLIP(image_encoder, text_encoder, 32, 16, projection_dim=8)
        >>> images, texts = torch.rand(6, 1, 8, 8), torch.randint(100, (6, 12))
        >>> model(images, texts).backward()
        >>> similarity = model.embed_images(images) @ model.embed_texts(texts).T
        >>> similarity.shape
        torch.Size([6, 6])

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    2021, https://arxiv.org/abs/2103.00020
    """

    def __init__(
        self,
        encoder: nn.Module,
        text_encoder: nn.Module,
        feature_dim: int,
        text_dim: int,
        *,
        projection_dim: int = 512,
        temperature: float = 0.07,
    ) -> None:
        super().__init__(encoder, text_encoder, feature_dim, text_dim, projection_dim)
        check_positive_number(temperature, "temperature", "CLIP")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the mean loss of both directions.

        Args:
            images: (B, ...).
            texts: (B, ...); text i belongs to image i.

        Returns:
            Scalar.

        Raises:
            ValueError: If there is not one text for each image, or one pair where a batch norm
                needs two, or an encoder returns another shape.
        """
        return clip_loss(*self.embed_pairs(images, texts), self.log_scale.exp())

    @torch.no_grad()
    def update(self, progress: float = 0.0) -> None:
        """Keep the scale from 1 to 100, after a step of the optimizer."""
        self.log_scale.clamp_(0.0, math.log(MOST_SCALE))
