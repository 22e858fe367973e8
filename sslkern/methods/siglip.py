"""SigLIP: of each image and each text of a batch, whether they belong together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sslkern.methods.parts.dual_encoder import DualEncoder
from sslkern.ops._common import check_number, check_positive_number, refuse
from sslkern.ops.siglip import siglip_loss


class SigLIP(DualEncoder):
    r"""Images and texts that belong together, learned pair by pair, with no softmax over a batch.

    With unit rows :math:`x_i` of images and :math:`t_j` of texts, from the encoders' features by
    linear maps without bias, and :math:`y_{ij} = 1` for :math:`i = j`, -1 elsewhere:

    .. math:: \ell = -\frac{1}{N} \sum_i \sum_j \log \sigma \bigl(
              y_{ij} (e^{t'} x_i \cdot t_j + b) \bigr)

    Scale and bias are learned. They start from :math:`t' = \log 10` and :math:`b = -10`, so that at
    first nothing is taken for a pair, which is right for all but N of the N N.

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim).
        text_encoder: Maps texts (B, ...) to features (B, text_dim).
        feature_dim: Width of the image encoder's features.
        text_dim: Width of the text encoder's features.
        projection_dim: Width D of the space in which both are compared.
        scale: :math:`e^{t'}` at the start.
        bias: b at the start.

    Raises:
        ValueError: If a width or the scale is not positive, or the bias is not finite.
        TypeError: If a width is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import SigLIP
        >>> image_encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> text_encoder = torch.nn.EmbeddingBag(100, 16)
        >>> model = SigLIP(image_encoder, text_encoder, 32, 16, projection_dim=8)
        >>> model(torch.rand(6, 1, 8, 8), torch.randint(100, (6, 12))).backward()
        >>> model.bias.grad.shape
        torch.Size([])

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
    https://arxiv.org/abs/2303.15343
    """

    def __init__(
        self,
        encoder: nn.Module,
        text_encoder: nn.Module,
        feature_dim: int,
        text_dim: int,
        *,
        projection_dim: int = 512,
        scale: float = 10.0,
        bias: float = -10.0,
    ) -> None:
        super().__init__(encoder, text_encoder, feature_dim, text_dim, projection_dim)
        check_positive_number(scale, "scale", "SigLIP")
        check_number(bias, "bias", "SigLIP")
        if not math.isfinite(bias):
            refuse("SigLIP", "bias", "finite", bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the sum over all pairs of a batch, divided by the number of images.

        Args:
            images: (B, ...).
            texts: (B, ...); text i belongs to image i.

        Returns:
            Scalar.

        Raises:
            ValueError: If there is not one text for each image, or one pair where a batch norm
                needs two, or an encoder returns another shape.
        """
        return siglip_loss(*self.embed_pairs(images, texts), self.log_scale.exp(), self.bias)
