"""MSN: an image with patches dropped is assigned as its whole is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.crops import check_crops
from sslkern.methods.parts.dino_head import WeightNormed
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.multicrop import encode_crops
from sslkern.methods.parts.patches import ClsToken, PatchEmbedding, encode_tokens, random_patches
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_number, check_positive_number, refuse
from sslkern.ops._embeddings import check_not_negative
from sslkern.ops.sinkhorn import check_iterations, sinkhorn
from sslkern.ops.soft_cross_entropy import soft_cross_entropy
from sslkern.reference._common import to_working_dtype

_OP = "MSN"


class MSN(Method):
    r"""Masked Siamese networks.

    With the unit projections z of M anchors with dropped patches, and z' of the whole view by the
    momentum teacher, and unit prototypes C:

    .. math:: p_m = \mathrm{softmax}(z_m C^\top / \tau), \quad
              q = \mathrm{softmax}\Bigl(\frac{z' C^\top}{\tau\,T}\Bigr), \quad
              L = \mathrm{mean}_m\,(-q \cdot \log p_m) + \lambda\,(\log K - H(\bar p))

    where T sharpens the targets, which Sinkhorn-Knopp then shares out over all prototypes alike,
    and :math:`\bar p` is the mean of all predictions of the batch, whose entropy H keeps all
    prototypes in use. Prototypes are trained, and take no gradient from targets.

    Anchors of the shape of the whole view lose a share of their patches, drawn from torch's global
    generator; smaller ones, crops, are a focus by themselves and keep all. Projections are made
    of the token [CLS]. The teacher's momentum follows a cosine. The Sinkhorn-Knopp iterations are
    those of the paper's code; without them small encoders settle on a single target.

    Args:
        encoder: A transformer that maps tokens (B, L, D) to tokens of the same shape, for any L.
        shape: Of a whole view, (C, H, W).
        dim: Width D of the tokens, a multiple of 4.
        patch_size: Side of a patch in pixels, which divides the sides of all views.
        mask_ratio: Share of the patches that an anchor loses, from 0 to below 1; at least one
            patch stays.
        hidden_dim: Width of the head's two hidden layers.
        projection_dim: Width of the projections.
        prototypes: Number K of prototypes.
        temperature: tau.
        sharpening: T, at most 1 to sharpen.
        entropy_weight: lambda.
        iterations: Of Sinkhorn-Knopp; 0 leaves the targets as they are.
        momentum: Of the teacher at the start, from 0 to 1.

    Raises:
        ValueError: If a size or temperature is not positive, or a share outside its range.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import MSN
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = MSN(layer, (1, 8, 8), dim=16, patch_size=2, hidden_dim=32, prototypes=20)
        >>> whole, anchor = torch.rand(2, 5, 1, 8, 8)
        >>> model(whole, anchor, anchor[..., 2:6, 2:6]).backward()

    Source: Assran et al., "Masked Siamese Networks for Label-Efficient Learning", 2022,
    https://arxiv.org/abs/2204.07141
    """

    def __init__(
        self,
        encoder: nn.Module,
        shape: tuple[int, int, int],
        dim: int,
        *,
        patch_size: int = 16,
        mask_ratio: float = 0.15,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        prototypes: int = 1024,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        entropy_weight: float = 1.0,
        iterations: int = 3,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        check_number(mask_ratio, "mask_ratio", _OP)
        if not 0 <= mask_ratio < 1:
            refuse(_OP, "mask_ratio", "from 0 to below 1", mask_ratio)
        check_positive_number(temperature, "temperature", _OP)
        check_positive_number(sharpening, "sharpening", _OP)
        check_not_negative(entropy_weight, "entropy_weight", _OP)
        check_iterations(iterations, _OP)
        self.encoder = encoder
        self.embed = PatchEmbedding(shape, patch_size, dim)
        self.visible = max(1, round(self.embed.patches * (1 - mask_ratio)))
        self.head = mlp([dim, hidden_dim, hidden_dim, projection_dim], activation=nn.GELU)
        self.prototypes = WeightNormed(projection_dim, prototypes)
        self.temperature = temperature
        self.sharpening = sharpening
        self.entropy_weight = entropy_weight
        self.iterations = iterations
        self.teacher = Teacher(self._student(), momentum, "cosine")

    def forward(self, whole: Tensor, *anchors: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            whole: (B, C, H, W) of the shape that the model is for; the view that is the target.
            anchors: At least one, (B, C, H', W') each, with sides that the patch size divides.

        Returns:
            Scalar.

        Raises:
            ValueError: If there is no anchor, a shape does not fit, or there is one sample where a
                batch norm needs two.
        """
        self._check(whole, anchors)
        tokens = encode_crops(self._cls, anchors)
        scores = self.prototypes(F.normalize(self.head(torch.cat(tokens))))
        agreement = soft_cross_entropy(
            scores,
            self._targets(whole).to(scores.dtype).repeat(len(anchors), 1),
            student_temperature=self.temperature,
            from_probabilities=True,
        )
        return agreement + self.entropy_weight * self._unevenness(scores)

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher, after a step of the optimizer."""
        self.teacher.update(self._student(), progress)

    def _student(self) -> nn.Sequential:
        return nn.Sequential(self.embed, self.encoder, ClsToken(), self.head)

    def _cls(self, images: Tensor) -> Tensor:
        """[CLS] of anchors of one size, (R, D)."""
        keep = None
        if images.shape[1:] == self.embed.shape and self.visible < self.embed.patches:
            keep = random_patches(len(images), self.embed.patches, self.visible, images.device)
        return encode_tokens(self.encoder, self.embed(images, keep=keep), _OP)[:, 0]

    @torch.no_grad()
    def _targets(self, whole: Tensor) -> Tensor:
        """Probabilities (B, K) of the prototypes, sharpened and shared out."""
        scores = to_working_dtype(self.prototypes(F.normalize(self.teacher(whole))))
        log_target = (scores / (self.temperature * self.sharpening)).log_softmax(1)
        plan: Tensor = sinkhorn(log_target, 1.0, self.iterations)
        return plan

    def _unevenness(self, scores: Tensor) -> Tensor:
        """How far the mean prediction is from using all prototypes alike, from 0 to log K."""
        mean = (to_working_dtype(scores) / self.temperature).softmax(1).mean(0)
        negative_entropy: Tensor = torch.special.xlogy(mean, mean).sum()
        return math.log(len(mean)) + negative_entropy

    def _check(self, whole: Tensor, anchors: tuple[Tensor, ...]) -> None:
        check_crops((whole, *anchors), 1, _OP)
        check_crops(anchors, 0, _OP, least=1, norms=[self.head])
        if whole.shape[1:] != self.embed.shape:
            requirement = f"of shape (B, {', '.join(map(str, self.embed.shape))})"
            refuse(_OP, "crop 1", requirement, tuple(whole.shape))
