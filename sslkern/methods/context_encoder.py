"""Context encoder: the middle of an image, predicted from what surrounds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, check_whole, encode
from sslkern.methods.parts.adversarial import (
    discriminator_loss,
    generator_loss,
    scores_of_frozen,
)
from sslkern.methods.parts.reconstruction import decode
from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count

_OP = "ContextEncoder"
_BORDER_WEIGHT = 10.0
"""Of the numbers of the square that the encoder sees, as in the paper."""


class ContextEncoder(Method):
    r"""Inpainting by reconstruction and by an adversary that sees the inpainted square.

    With the square x of the image, its prediction :math:`\hat x = g(f(\text{image without } x))`
    and the discriminator D:

    .. math:: \ell = (1 - \alpha) \frac{1}{n} \sum_k w_k (\hat x_k - x_k)^2
              - \alpha \log D(\hat x)
              - \log D(x) - \log(1 - D(\hat x))

    with means over the batch. The last two terms are the discriminator's and do not reach encoder
    and decoder, whose prediction is detached there; the term before does not reach the
    discriminator, whose parameters are detached there. So one optimizer takes the steps of both at
    once, where the paper alternates them. As in the public code, the square is in the middle,
    the discriminator sees nothing else, and what is hidden is 0 after the images were shifted to
    mean 0. With an ``overlap`` the encoder sees the border of the square, whose numbers weigh
    w = 10, so that the prediction goes on where the image ends. The paper's squares at random
    places and masks of other shapes are left out.

    Args:
        encoder: Maps images (B, C, H, W) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        decoder: Maps features to squares (B, C, S, S).
        discriminator: Maps squares (B, C, S, S) to the logit of being real, (B, 1).
        size: Side S of the square in pixels.
        overlap: Width of the border of the square that stays visible.
        adversarial_weight: Alpha, from 0 to 1.

    Raises:
        ValueError: If a size is not positive, the overlap hides nothing, or the weight is outside
            [0, 1].
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import ContextEncoder
        >>> from torch.nn import Flatten, Linear, Sequential, Unflatten
        >>> decoder = Sequential(Linear(32, 16), Unflatten(1, (1, 4, 4)))
        >>> discriminator = Sequential(Flatten(), Linear(16, 1))
        >>> encoder = Sequential(Flatten(), Linear(64, 32))
        >>> model = ContextEncoder(encoder, 32, decoder, discriminator, size=4)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images).backward()
        >>> model.inpaint(images).shape
        torch.Size([16, 1, 8, 8])

    Source: Pathak et al., "Context Encoders: Feature Learning by Inpainting", 2016,
    https://arxiv.org/abs/1604.07379; https://github.com/pathak22/context-encoder for the weights
    """

    weights: Tensor
    """Of the numbers of the square, (S, S)."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        decoder: nn.Module,
        discriminator: nn.Module,
        *,
        size: int = 64,
        overlap: int = 0,
        adversarial_weight: float = 0.001,
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", _OP)
        check_count(size, "size", _OP)
        check_whole(overlap, "overlap", _OP)
        if 2 * overlap >= size:
            refuse(_OP, "overlap", f"below half of {size}", overlap)
        check_share(adversarial_weight, "adversarial_weight", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.decoder = decoder
        self.discriminator = discriminator
        self.size = size
        self.overlap = overlap
        self.adversarial_weight = adversarial_weight
        weights = torch.full((size, size), _BORDER_WEIGHT)
        weights[overlap : size - overlap, overlap : size - overlap] = 1.0
        self.register_buffer("weights", weights)

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of both players' losses.

        Args:
            images: (B, C, H, W), with sides of at least S.

        Returns:
            Scalar.

        Raises:
            ValueError: If the images are too small, one sample where a batch norm needs two, or a
                module returns another shape.
        """
        square, predicted = self.square(images), self.predict(images)
        error = (self.weights * (predicted - square).square()).mean()
        real, made = self._scores(square), self._scores(predicted.detach())
        judged = scores_of_frozen(self.discriminator, predicted)
        alpha = self.adversarial_weight
        joint = (1 - alpha) * error + alpha * generator_loss(judged)
        return joint + discriminator_loss(real, made)

    def square(self, images: Tensor) -> Tensor:
        """The middle of images (B, C, H, W), (B, C, S, S)."""
        rows, columns = self._places(images, 0)
        return images[:, :, rows, columns]

    def hide(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) as the encoder sees them."""
        rows, columns = self._places(images, self.overlap)
        hidden = images.clone()
        hidden[:, :, rows, columns] = 0.0
        return hidden

    def predict(self, images: Tensor) -> Tensor:
        """The predicted squares (B, C, S, S) of images (B, C, H, W)."""
        seen = self.hide(images)
        features = encode(self.encoder, seen, self.feature_dim, _OP)
        return decode(self.decoder, features, (images.shape[1], self.size, self.size), _OP)

    def inpaint(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with the predicted square in their middle."""
        rows, columns = self._places(images, 0)
        painted = images.clone()
        painted[:, :, rows, columns] = self.predict(images).to(images)
        return painted

    def _places(self, images: Tensor, border: int) -> tuple[slice, slice]:
        """Rows and columns of the square without a border."""
        check_tensor(images, "images", _OP)
        if images.dim() != 4 or min(images.shape[2:]) < self.size:
            requirement = f"of shape (B, C, H, W) with sides of at least {self.size}"
            refuse(_OP, "images", requirement, f"shape {tuple(images.shape)}")
        norms = [self.encoder, self.decoder, self.discriminator]
        check_views((images,), _OP, norms=norms, name="images")
        first = [(side - self.size) // 2 + border for side in images.shape[2:]]
        length = self.size - 2 * border
        return slice(first[0], first[0] + length), slice(first[1], first[1] + length)

    def _scores(self, squares: Tensor) -> Tensor:
        return decode(self.discriminator, squares, (1,), _OP, "discriminator")
