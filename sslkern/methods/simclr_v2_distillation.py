"""SimCLR v2's last step: a smaller network learns what a fine-tuned one says of any image."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.ops._common import check_positive_number, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.soft_cross_entropy import soft_cross_entropy


class SimCLRDistillation(Method):
    r"""Cross entropy of a student against a frozen classifier's soft labels.

    .. math:: \ell = -\frac{1}{B} \sum_i \sum_y P^T_\tau(y | x_i) \log P^S_\tau(y | x_i), \quad
              P_\tau(\cdot | x) = \mathrm{softmax}(s(x) / \tau)

    Teacher and student see the same view. No labels are needed; the paper's term of labels, where
    there are some, is an ordinary cross entropy of `logits` that one adds. The loss has no factor
    :math:`\tau^2`, as in the paper.

    The teacher is copied, takes no gradient and stays in evaluation mode. It is part of the state.

    Args:
        encoder: The student's; maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        teacher: Maps the same views to scores (B, classes).
        classes: Number of classes; the student's linear classifier has as many outputs.
        temperature: tau of both; the paper has 1 for smaller students and 0.1 where both networks
            are alike.

    Raises:
        ValueError: If the number of classes or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import SimCLRDistillation
        >>> teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
        >>> model = SimCLRDistillation(encoder, feature_dim=8, teacher=teacher, classes=10)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images).backward()
        >>> model.logits(images).shape
        torch.Size([16, 10])

    Source: Chen, Kornblith, Swersky, Norouzi, Hinton: Big Self-Supervised Models are Strong
    Semi-Supervised Learners. 2020. https://arxiv.org/abs/2006.10029 (section 2)
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        teacher: nn.Module,
        classes: int,
        *,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_count(feature_dim, "feature_dim", "SimCLRDistillation")
        check_count(classes, "classes", "SimCLRDistillation")
        check_positive_number(temperature, "temperature", "SimCLRDistillation")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.classifier = nn.Linear(feature_dim, classes)
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.temperature = temperature

    def forward(self, view: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view: (B, ...); one view of each sample.

        Returns:
            Scalar.

        Raises:
            ValueError: If the view holds nothing, or one sample where a batch norm needs two, or
                encoder or teacher return another shape.
        """
        check_views((view,), "SimCLRDistillation", norms=[self.encoder])
        student = self.logits(view)
        return soft_cross_entropy(
            student,
            self.soft_labels(view).to(student.dtype),
            student_temperature=self.temperature,
            teacher_temperature=self.temperature,
        )

    def logits(self, view: Tensor) -> Tensor:
        """The student's scores (B, classes) of the classes."""
        features = encode(self.encoder, view, self.feature_dim, "SimCLRDistillation")
        scores: Tensor = self.classifier(features)
        return scores

    @torch.no_grad()
    def soft_labels(self, view: Tensor) -> Tensor:
        """The teacher's scores (B, classes), without gradient.

        Raises:
            ValueError: If it returns another shape.
        """
        scores: Tensor = self.teacher(view)
        expected = (len(view), self.classifier.out_features)
        if scores.shape != expected:
            requirement = f"a module that returns the shape {expected}"
            refuse("SimCLRDistillation", "teacher", requirement, tuple(scores.shape))
        return scores

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self
