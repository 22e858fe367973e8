"""iBOT: DINO on whole images, and the same on patches that the student does not see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method
from sslkern.methods.parts.crops import check_crops
from sslkern.methods.parts.dino_head import DINOHead
from sslkern.methods.parts.heads import Norm
from sslkern.methods.parts.multicrop import encode_crops
from sslkern.methods.parts.patches import (
    PatchEmbedding,
    encode_tokens,
    most_in_block,
    random_blocks,
    take_tokens,
)
from sslkern.methods.parts.schedules import check_share
from sslkern.methods.parts.targets import TeacherTargets, across
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count, check_not_negative

_OP = "IBOT"


class IBOT(Method):
    r"""Self-distillation of [CLS] across crops, and of masked patches within a view.

    .. math:: L = L_{\mathrm{DINO}} + \frac{\lambda}{G B} \sum_{i \le G} \sum_b
              \frac{1}{|M_{ib}|} \sum_{j \in M_{ib}}
              -\mathrm{softmax}\Bigl(\frac{t_{ibj} - c'}{\tau'_t}\Bigr) \cdot
              \log \mathrm{softmax}\Bigl(\frac{s_{ibj}}{\tau_s}\Bigr)

    with the scores t of the teacher, which sees whole views, and s of the student, for which a
    token stands in for the patches M of the first G views; a view without masked patches has no
    part in the second sum. :math:`L_{\mathrm{DINO}}` is that of `DINO`, of the scores of [CLS].
    The head is shared between [CLS] and patches; each has a center of its own, :math:`c'` for
    patches, a moving average of the teacher's scores of all of them. Centers follow after the loss.

    A view is masked with ``mask_probability``, by one rectangle of patches, whose area is uniform
    between the shares ``mask_ratio`` (the paper's code joins several rectangles). Masks come from
    torch's global generator.

    Args:
        encoder: A transformer that maps tokens (B, L, D) to tokens of the same shape, for any L.
        shape: Of a large view, (C, H, W).
        dim: Width D of the tokens, a multiple of 4.
        patch_size: Side of a patch in pixels, which divides the sides of all crops.
        out_dim: Number K of scores.
        hidden_dim: Width of the head's hidden layers.
        bottleneck_dim: Width of the head's bottleneck.
        head_norm: Of the head's hidden layers; batch norms see the [CLS] of all crops, and as
            many patches of each view as may be masked, as a batch each.
        freeze_iterations: First backward passes that leave the head's last layer as it is.
        student_temperature: tau_s.
        teacher_temperature: tau_t of [CLS], after the warm-up.
        patch_temperature: That of patches.
        first_temperature: Of both at the start; those after the warm-up if not given.
        warmup: Share of the training in which they change.
        center_momentum: Share of the old centers, from 0 to 1.
        momentum: Of the teacher at the start, from 0 to 1; it rises to one along a cosine.
        mask_probability: How likely a view is masked, from 0 to 1.
        mask_ratio: Least and largest share of its patches that are masked then.
        patch_weight: lambda.
        large_crops: G.

    Raises:
        ValueError: If a size or temperature is not positive, or a share outside [0, 1].
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import IBOT
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = IBOT(layer, (1, 8, 8), dim=16, patch_size=2, out_dim=100, hidden_dim=32)
        >>> large, small = torch.rand(2, 5, 1, 8, 8), torch.rand(3, 5, 1, 4, 4)
        >>> model(*large, *small).backward()
        >>> model.update(progress=0.01)

    Source: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", 2021,
    https://arxiv.org/abs/2111.07832
    """

    def __init__(
        self,
        encoder: nn.Module,
        shape: tuple[int, int, int],
        dim: int,
        *,
        patch_size: int = 16,
        out_dim: int = 8192,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        head_norm: Norm = "none",
        freeze_iterations: int = 0,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        patch_temperature: float = 0.07,
        first_temperature: float | None = 0.04,
        warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        mask_probability: float = 0.5,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        patch_weight: float = 1.0,
        large_crops: int = 2,
    ) -> None:
        super().__init__()
        check_count(large_crops, "large_crops", _OP)
        check_share(mask_probability, "mask_probability", _OP)
        for share in mask_ratio:
            check_share(share, "mask_ratio", _OP)
        check_not_negative(patch_weight, "patch_weight", _OP)
        self.encoder = encoder
        self.embed = PatchEmbedding(shape, patch_size, dim, mask_token=True)
        self.head = DINOHead(
            dim,
            out_dim,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
            norm=head_norm,
            freeze_iterations=freeze_iterations,
        )
        self.targets, self.patch_targets = (
            TeacherTargets(
                out_dim,
                _OP,
                student_temperature=student_temperature,
                teacher_temperature=temperature,
                first_temperature=first_temperature,
                warmup=warmup,
                center_momentum=center_momentum,
            )
            for temperature in (teacher_temperature, patch_temperature)
        )
        self.mask_probability = mask_probability
        self.mask_ratio = mask_ratio
        self.most_masked = most_in_block(self.embed.grid, max(mask_ratio))
        self.patch_weight = patch_weight
        self.large_crops = large_crops
        self.teacher = Teacher(self._student(), momentum, "cosine")

    def forward(self, *crops: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            crops: (B, C, H', W') each, at least two; the large ones first, of the shape that the
                model is for. The patch size divides the sides of all.

        Returns:
            Scalar.

        Raises:
            ValueError: For too few crops, crops of several batch sizes, or a shape that does not
                fit.
        """
        self._check(crops)
        large = torch.cat(crops[: self.large_crops])
        mask = self.draw_masks(len(large), large.device)
        tokens = encode_tokens(self.encoder, self.embed(large, mask=mask), _OP)
        cls = torch.cat([tokens[:, 0], *self._small(crops)])
        teacher_cls, teacher_patches = self.teacher(large)
        loss = across(
            self.targets,
            list(self.head(cls).chunk(len(crops))),
            list(teacher_cls.chunk(self.large_crops)),
        )
        loss = loss + self.patch_weight * self._patch_loss(tokens[:, 1:], teacher_patches, mask)
        if self.training:
            self.targets.center.update(teacher_cls)
            self.patch_targets.center.update(teacher_patches)
        return loss

    def draw_masks(self, batch: int, device: torch.device) -> Tensor:
        """Patches of views that the student does not see, (batch, L) bool."""
        masked = torch.rand(batch, 1, device=device) < self.mask_probability
        return masked & random_blocks(batch, self.embed.grid, self.mask_ratio, device)

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher and its temperatures, after a step of the optimizer."""
        self.teacher.update(self._student(), progress)
        self.targets.update(progress)
        self.patch_targets.update(progress)

    def _student(self) -> _Scores:
        return _Scores(self.embed, self.encoder, self.head)

    def _small(self, crops: tuple[Tensor, ...]) -> list[Tensor]:
        """[CLS] of each small crop."""
        small = crops[self.large_crops :]
        return encode_crops(self._cls, small) if small else []

    def _cls(self, images: Tensor) -> Tensor:
        return encode_tokens(self.encoder, self.embed(images), _OP)[:, 0]

    def _patch_loss(self, tokens: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Mean over views of the mean over the masked patches of each."""
        # As many of each view as may be masked, so that no shape depends on what was drawn: the
        # masked ones first, the others without weight.
        places = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : self.most_masked]
        losses: Tensor = self.patch_targets(
            self.head(take_tokens(tokens, places).flatten(0, 1)),
            take_tokens(teacher, places).flatten(0, 1),
            reduction="none",
        )
        masked = mask.gather(1, places).to(losses.dtype)
        weight = masked / masked.sum(1, keepdim=True).clamp_min(1)
        return (losses * weight.flatten()).sum() / len(mask)

    def _check(self, crops: tuple[Tensor, ...]) -> None:
        check_crops(crops, self.large_crops, _OP, norms=[self.encoder, self.head])
        if crops[0].shape[1:] != self.embed.shape:
            requirement = f"of shape (B, {', '.join(map(str, self.embed.shape))})"
            refuse(_OP, "crop 1", requirement, tuple(crops[0].shape))


class _Scores(nn.Module):
    """Scores of [CLS] (B, K), and of all patches (B, L, K), of whole images."""

    def __init__(self, embed: PatchEmbedding, encoder: nn.Module, head: DINOHead) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = embed, encoder, head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(self.embed(images))
        patches = tokens[:, 1:]
        scores = self.head(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return self.head(tokens[:, 0]), scores
