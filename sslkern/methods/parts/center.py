"""The centre of a teacher's logits, which keeps one output from winning everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_same_device, check_tensor, refuse
from sslkern.ops._embeddings import check_count
from sslkern.reference._common import to_working_dtype

_OP = "Center"


class Center(nn.Module):
    r"""Subtracts a moving average of the mean logits.

    .. math:: c \leftarrow m\,c + (1 - m)\,\frac{1}{B} \sum_i t_i

    DINO takes the softmax of the centred logits over the teacher's temperature, and updates the
    centre with the same logits afterwards. The mean is that of the logits given: processes that
    share a batch gather them first. The centre is a buffer, saved with the state.

    Args:
        dim: Number K of logits.
        momentum: The share m of the old centre, from 0 to 1.

    Raises:
        ValueError: If the number is not positive or the momentum outside [0, 1].
        TypeError: If a number is none.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.center import Center
        >>> center = Center(dim=2, momentum=0.5)
        >>> logits = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
        >>> center.update(logits)
        >>> center(logits).tolist()
        [[0.0, 2.0], [2.0, 2.0]]

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294
    """

    value: Tensor
    """The centre, (1, K) float32: zero at first."""

    def __init__(self, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        check_count(dim, "dim", _OP)
        check_share(momentum, "momentum", _OP)
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(1, dim))

    def forward(self, logits: Tensor) -> Tensor:
        """The logits less the centre.

        Args:
            logits: (..., K), of any floating dtype.

        Returns:
            Of the shape of the logits; float64 for float64 logits, else float32.

        Raises:
            ValueError: For another number of logits, or another device.
            TypeError: For what is no floating tensor.
        """
        self._check(logits)
        return logits - self.value.to(to_working_dtype(logits).dtype)

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Move towards the mean of these logits.

        Args:
            logits: (..., K), of any floating dtype; the mean is over all dimensions but the last.

        Raises:
            ValueError: For another number of logits, none at all, or another device.
            TypeError: For what is no floating tensor.
        """
        self._check(logits)
        if logits.numel() == 0:
            refuse(_OP, "logits", "at least one row", f"shape {tuple(logits.shape)}")
        mean = to_working_dtype(logits.reshape(-1, logits.shape[-1])).mean(0, keepdim=True)
        self.value.lerp_(mean.to(self.value), 1 - self.momentum)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"dim={self.value.shape[1]}, momentum={self.momentum}"

    def _check(self, logits: Tensor) -> None:
        check_tensor(logits, "logits", _OP)
        if not logits.is_floating_point():
            raise TypeError(
                f"sslkern::{_OP}: expected logits to be a floating-point tensor, got {logits.dtype}"
            )
        dim = self.value.shape[1]
        if logits.dim() == 0 or logits.shape[-1] != dim:
            refuse(_OP, "logits", f"of shape (..., {dim})", f"shape {tuple(logits.shape)}")
        check_same_device(logits, "logits", self.value, "the centre", _OP)
