"""MAE: most patches of an image are hidden, and predicted from the few that are left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method
from sslkern.methods.parts.patches import (
    PatchEmbedding,
    patchify,
    random_patches,
    sincos_positions,
    take_tokens,
    unpatchify,
)
from sslkern.ops._common import check_number, check_tensor, refuse
from sslkern.ops._embeddings import check_count

_OP = "MAE"
_VARIANCE_EPS = 1e-6
"""Added to the variance of a patch, as in the paper's code."""


class MAE(Method):
    r"""Masked autoencoding with a transformer that sees the visible patches alone.

    With the predicted pixels :math:`\hat x_j` of patch j and its target :math:`t_j`:

    .. math:: \ell = \frac{1}{|M|} \sum_{j \in M} \frac{1}{P} \lVert \hat x_j - t_j \rVert^2, \quad
              t_j = \frac{x_j - \mu_j}{\sqrt{\sigma_j^2 + 10^{-6}}}

    over the masked patches M of all images, of P numbers each; :math:`\mu_j` and :math:`\sigma_j^2`
    are the mean and the unbiased variance of a patch. Each forward pass draws the masks from
    torch's global generator, as many patches in each image.

    Visible patches become tokens (`embed`), which the encoder maps. The decoder gets these at their
    places and a learned token at the masked ones, each with its position. Afterwards
    ``model.encoder(model.embed(images))`` are tokens of the whole image.

    Args:
        encoder: A transformer that maps tokens (B, L, D) to tokens of the same shape, for any L.
        shape: Of an image, (C, H, W).
        dim: Width D of the tokens, a multiple of 4.
        patch_size: Side of a patch in pixels, which divides H and W.
        mask_ratio: Share of the patches that are hidden, between 0 and 1. At least one patch stays
            visible and one is hidden.
        decoder_dim: Width of the decoder's tokens, a multiple of 4 and of ``decoder_heads``.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Heads of its attention.
        normalize_targets: Whether targets are normalized by patch; else they are the pixels.

    Raises:
        ValueError: If a size does not fit, or the mask hides all patches or none.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import MAE
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = MAE(layer, (1, 8, 8), dim=16, patch_size=2, decoder_dim=16, decoder_heads=2)
        >>> images = torch.rand(5, 1, 8, 8)
        >>> model(images).backward()
        >>> model.encoder(model.embed(images)).shape
        torch.Size([5, 17, 16])

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021,
    https://arxiv.org/abs/2111.06377
    """

    decoder_positions: Tensor
    """Of the patches, (L, decoder_dim)."""

    def __init__(
        self,
        encoder: nn.Module,
        shape: tuple[int, int, int],
        dim: int,
        *,
        patch_size: int = 16,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalize_targets: bool = True,
    ) -> None:
        super().__init__()
        for name, count in (("decoder_dim", decoder_dim), ("decoder_heads", decoder_heads)):
            check_count(count, name, _OP)
        if decoder_dim % decoder_heads:
            refuse(_OP, "decoder_dim", f"a multiple of {decoder_heads} heads", decoder_dim)
        self.encoder = encoder
        self.embed = PatchEmbedding(shape, patch_size, dim)
        self.visible = _visible_patches(self.embed.patches, mask_ratio)
        pixels = shape[0] * patch_size**2
        if normalize_targets and pixels < 2:
            requirement = "of at least 2 numbers, which normalized targets need"
            refuse(_OP, "a patch", requirement, pixels)
        self.normalize_targets = normalize_targets
        positions = sincos_positions(self.embed.grid, decoder_dim).to(torch.get_default_dtype())
        self.register_buffer("decoder_positions", positions)
        self.to_decoder = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(decoder_dim))
        self.decoder = _decoder(decoder_dim, decoder_depth, decoder_heads)
        self.to_pixels = nn.Linear(decoder_dim, pixels)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean loss over the masked patches.

        Args:
            images: (B, C, H, W) of the shape that the model is for.

        Returns:
            Scalar.

        Raises:
            ValueError: If images or what the encoder returns are of another shape.
        """
        keep = self.draw(images)
        predicted, target = self.predict(images, keep), self.targets(images)
        hidden = torch.ones(target.shape[:2], device=images.device).scatter(1, keep, 0.0).bool()
        return (predicted - target).square().mean(2)[hidden].mean()

    def draw(self, images: Tensor) -> Tensor:
        """Patches of each image that stay visible, (B, M) int64, from the global generator."""
        self._check(images)
        return random_patches(len(images), self.embed.patches, self.visible, images.device)

    def predict(self, images: Tensor, keep: Tensor) -> Tensor:
        """The predicted targets (B, L, P) of all patches.

        Args:
            images: (B, C, H, W).
            keep: Patches that the encoder sees, (B, M) int64.

        Raises:
            ValueError: If the images or what the encoder returns are of another shape.
        """
        self._check(images)
        tokens = self.embed(images, keep=keep)
        encoded = self.encoder(tokens)
        if encoded.shape != tokens.shape:
            requirement = f"a module that returns the shape {tuple(tokens.shape)}"
            refuse(_OP, "encoder", requirement, tuple(encoded.shape))
        visible = self.to_decoder(encoded)
        places = keep[..., None].expand(-1, -1, visible.shape[2])
        masked = self.mask_token.to(visible).expand(len(images), self.embed.patches, -1)
        patches = masked.scatter(1, places, visible[:, 1:]) + self.decoder_positions.to(visible)
        decoded: Tensor = self.to_pixels(self.decoder(torch.cat([visible[:, :1], patches], 1)))
        return decoded[:, 1:]

    def targets(self, images: Tensor) -> Tensor:
        """What is to be predicted of each patch, (B, L, P)."""
        patches = patchify(images, self.embed.patch_size)
        if not self.normalize_targets:
            return patches
        mean, deviation = _moments(patches)
        return (patches - mean) / deviation

    def reconstruct(self, images: Tensor, keep: Tensor) -> Tensor:
        """Images (B, C, H, W) whose hidden patches are predicted, the others as they are.

        Mean and variance of a hidden patch, which normalized targets leave out, are its own.

        Args:
            images: (B, C, H, W).
            keep: Patches that the encoder sees, (B, M) int64.
        """
        patches, predicted = patchify(images, self.embed.patch_size), self.predict(images, keep)
        if self.normalize_targets:
            mean, deviation = _moments(patches)
            predicted = predicted * deviation + mean
        places = keep[..., None].expand(-1, -1, patches.shape[2])
        whole = predicted.scatter(1, places, take_tokens(patches, keep).to(predicted))
        return unpatchify(whole, self.embed.patch_size, self.embed.shape)

    def _check(self, images: Tensor) -> None:
        check_tensor(images, "images", _OP)
        shape = self.embed.shape
        if images.shape[1:] != shape or len(images) == 0:
            requirement = f"of shape (B, {', '.join(map(str, shape))}) with B > 0"
            refuse(_OP, "images", requirement, f"shape {tuple(images.shape)}")


def _visible_patches(patches: int, mask_ratio: float) -> int:
    check_number(mask_ratio, "mask_ratio", _OP)
    visible = int(patches * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
    if not 0 < visible < patches:
        requirement = f"between 0 and 1 and such that some of the {patches} patches stay visible"
        refuse(_OP, "mask_ratio", requirement, mask_ratio)
    return visible


def _decoder(dim: int, depth: int, heads: int) -> nn.Sequential:
    check_count(depth, "decoder_depth", _OP)
    blocks = [
        nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(dim))


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, (B, L, 1) each."""
    variance, mean = torch.var_mean(patches, 2, keepdim=True)
    return mean, (variance + _VARIANCE_EPS).sqrt()
