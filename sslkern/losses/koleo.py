"""KoLeo as a module."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.ops.koleo import check_settings, koleo_loss


class KoLeoLoss(nn.Module):
    """`sslkern.koleo_loss` with its settings held.

    Args:
        p: The norm of the distance, at least 1.
        eps: Positive number that keeps the logarithm finite.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.KoLeoLoss()
        >>> print(f"{loss_fn(torch.eye(4)).item():.4f}")  # -log of the root of 2
        -0.3466

    Equals: `sslkern.reference.koleo_loss`.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", 2018,
    https://arxiv.org/abs/1806.03198
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-8) -> None:
        super().__init__()
        check_settings(p, eps)
        self.p = p
        self.eps = eps

    def forward(self, z: Tensor) -> Tensor:
        """Loss of the rows of ``z`` (N, D)."""
        return koleo_loss(z, p=self.p, eps=self.eps)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"p={self.p}, eps={self.eps}"
