"""NT-Xent as a module."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.ops._common import check_positive_number
from sslkern.ops.ntxent import ntxent_loss


class NTXentLoss(nn.Module):
    """`sslkern.ntxent_loss` with its temperature held.

    Args:
        temperature: Positive number.

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.NTXentLoss(temperature=0.5)
        >>> print(f"{loss(torch.eye(2), torch.eye(2)).item():.6f}")
        0.239545

    Equals: `sslkern.reference.ntxent_loss`.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, https://arxiv.org/abs/2002.05709
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "ntxent")
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Mean loss over the 2B rows of two views, each (B, D)."""
        return ntxent_loss(z_a, z_b, self.temperature)

    def extra_repr(self) -> str:
        """The temperature, for ``print(module)``."""
        return f"temperature={self.temperature}"
