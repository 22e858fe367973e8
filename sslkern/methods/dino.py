"""DINO: a student on all crops learns what its momentum teacher says of the large ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method
from sslkern.methods.parts.crops import check_crops, encode_all
from sslkern.methods.parts.dino_head import DINOHead
from sslkern.methods.parts.heads import Norm
from sslkern.methods.parts.targets import TeacherTargets, across
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._embeddings import check_count

_OP = "DINO"


class DINO(Method):
    r"""Self-distillation without labels.

    .. math:: L = \frac{1}{G (V - 1)} \sum_{i \le G} \sum_{v \ne i}
              -\mathrm{softmax}\Bigl(\frac{t_i - c}{\tau_t}\Bigr) \cdot
              \log \mathrm{softmax}\Bigl(\frac{s_v}{\tau_s}\Bigr)

    with the student's scores s of V crops, the teacher's t of the first G, and the center c, a
    moving average of t that follows after the loss. The teacher is an average of the students
    before, and takes no gradient; its momentum rises to one along a cosine. The encoder sees the
    crops of one size as one batch, the head all of them.

    The defaults are those of the paper for large data. The paper also clips the gradient at norm 3
    and raises the weight decay from 0.04 to 0.4, which is left to the optimizer.

    Args:
        encoder: Maps crops (R, ...) of each size, for any number R, to features (R, feature_dim).
        feature_dim: Width of the encoder's features.
        out_dim: Number K of scores.
        hidden_dim: Width of the head's hidden layers.
        bottleneck_dim: Width of the head's bottleneck.
        head_norm: Of the head's hidden layers; none for transformers.
        freeze_iterations: First backward passes that leave the head's last layer as it is; an
            epoch in the paper.
        student_temperature: tau_s.
        teacher_temperature: tau_t, after the warm-up.
        first_temperature: tau_t at the start; ``teacher_temperature`` if not given.
        warmup: Share of the training in which tau_t changes.
        center_momentum: Share of the old center, from 0 to 1.
        momentum: Of the teacher at the start, from 0 to 1.
        large_crops: G.

    Raises:
        ValueError: If a size or temperature is not positive, or a share outside [0, 1].
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import DINO
        >>> encoder = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        ... )
        >>> model = DINO(encoder, feature_dim=32, out_dim=100, hidden_dim=64, bottleneck_dim=16)
        >>> large, small = torch.rand(2, 16, 1, 8, 8), torch.rand(3, 16, 1, 6, 6)
        >>> model(*large, *small).backward()
        >>> model.update(progress=0.01)

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        head_norm: Norm = "none",
        freeze_iterations: int = 0,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_temperature: float | None = None,
        warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        large_crops: int = 2,
    ) -> None:
        super().__init__()
        check_count(large_crops, "large_crops", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.large_crops = large_crops
        self.head = DINOHead(
            feature_dim,
            out_dim,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
            norm=head_norm,
            freeze_iterations=freeze_iterations,
        )
        self.targets = TeacherTargets(
            out_dim,
            _OP,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            first_temperature=first_temperature,
            warmup=warmup,
            center_momentum=center_momentum,
        )
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum, "cosine")

    def forward(self, *crops: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            crops: (B, ...) each, at least two; the large ones first, which share a shape.

        Returns:
            Scalar: the mean over pairs of crops and samples.

        Raises:
            ValueError: For too few crops, crops of several batch sizes, one sample where a batch
                norm needs two, or an encoder that returns something else than (R, feature_dim).
        """
        check_crops(crops, self.large_crops, _OP, norms=[self.encoder, self.head])
        student = self.head(encode_all(self.encoder, crops, self.feature_dim, _OP))
        teacher = self.teacher(torch.cat(crops[: self.large_crops]))
        loss = across(
            self.targets,
            list(student.chunk(len(crops))),
            list(teacher.chunk(self.large_crops)),
        )
        if self.training:
            self.targets.center.update(teacher)
        return loss

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher and its temperature, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)
        self.targets.update(progress)
