"""ReSSL: a student finds the same relations to earlier images as a teacher does."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.teacher import Teacher
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_count
from sslkern.ops.ressl import ressl_loss


class ReSSL(Method):
    r"""Relational self-supervised learning with a weak view for the teacher.

    .. math:: \ell = -\sum_j \mathrm{softmax}(k \cdot u_j / \tau_t)_j
              \log \mathrm{softmax}(q \cdot u_j / \tau_s)_j

    with the student's embedding q of a strong view, the teacher's embedding k of a weak view of
    the same sample and the teacher's embeddings :math:`u_j` of earlier samples, all of unit norm.
    The pair itself is no column of the softmax. The teacher follows the student as a momentum
    encoder; its embeddings take no gradient and enter the queue after the loss, in training mode.
    The teacher's temperature is the lower one: it keeps the strongest relations.

    The loss goes one way, as in the paper; the head has two layers without norms, as in its code.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer.
        projection_dim: Width of the embeddings.
        queue_size: Embeddings of the teacher that are kept.
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        momentum: Of the teacher, from 0 to 1.

    Raises:
        ValueError: If a size or a temperature is not positive, or the momentum is outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import ReSSL
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = ReSSL(encoder, feature_dim=32, queue_size=256)
        >>> images = torch.rand(16, 1, 8, 8)
        >>> model(images + 0.1 * torch.randn_like(images), images).backward()
        >>> int(model.queue.position)
        16

    Source: Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", 2021,
    https://arxiv.org/abs/2107.09282
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 512,
        queue_size: int = 131072,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        check_count(hidden_dim, "hidden_dim", "ReSSL")
        check_positive_number(student_temperature, "student_temperature", "ReSSL")
        check_positive_number(teacher_temperature, "teacher_temperature", "ReSSL")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, hidden_dim, projection_dim], norm="none")
        self.teacher = Teacher(nn.Sequential(encoder, self.head), momentum)
        self.queue = Queue(queue_size, projection_dim)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    def forward(self, view_strong: Tensor, view_weak: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view_strong: (B, ...); a view of each sample for the student, much changed.
            view_weak: Same shape; a view of the same samples for the teacher, little changed.

        Returns:
            Scalar.

        Raises:
            ValueError: If the views differ in shape, hold one sample where a batch norm needs two,
                or the encoder returns something else than (B, feature_dim).
        """
        check_views((view_strong, view_weak), "ReSSL", norms=[self.encoder])
        query = self.head(encode(self.encoder, view_strong, self.feature_dim, "ReSSL"))
        key = nn.functional.normalize(self.teacher(view_weak))
        loss = ressl_loss(
            query,
            key,
            self.queue.rows,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        if self.training:
            self.queue.enqueue(key)
        return loss

    def update(self, progress: float = 0.0) -> None:
        """Move the teacher, after a step of the optimizer."""
        self.teacher.update(nn.Sequential(self.encoder, self.head), progress)
