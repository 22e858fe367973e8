"""SwAV's loss as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.sinkhorn import check_iterations
from sslkern.ops.swapped_prediction import swav_loss


class SwAVLoss(SharedLoss):
    """`sslkern.swav_loss` with its numbers held; constructor and call are those of lightly's.

    Args:
        temperature: Positive number, of the predictions.
        sinkhorn_iterations: How many, at least 0.
        sinkhorn_epsilon: Positive number, of the assignments.
        sinkhorn_gather_distributed: Assign the rows of all ranks together, and take the mean loss
            over them; see `sslkern.swav_loss`. Lightly's is that of a rank's own rows; with as many
            rows on each, gradients that are averaged over the ranks are the same. Without effect in
            one process.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is not positive and finite, or sinkhorn_iterations negative.

    Example:
        >>> import torch, sslkern
        >>> loss_fn = sslkern.losses.SwAVLoss()
        >>> high = [torch.randn(8, 30, requires_grad=True) for _ in range(2)]
        >>> low = [torch.randn(8, 30, requires_grad=True) for _ in range(6)]
        >>> loss_fn(high, low).backward()

    Equals: `sslkern.reference.swav_loss`.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(sinkhorn_gather_distributed, process_group, check)
        check_positive_number(temperature, "temperature", "swapped_prediction")
        check_positive_number(sinkhorn_epsilon, "sinkhorn_epsilon", "swapped_prediction")
        check_iterations(sinkhorn_iterations, "swapped_prediction")
        self.temperature = temperature
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon

    def forward(
        self,
        high_resolution_outputs: Sequence[Tensor],
        low_resolution_outputs: Sequence[Tensor] = (),
        queue_outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Mean loss over views of scores (B, K); queues of scores (L, K) for those of high ones."""
        return swav_loss(
            high_resolution_outputs,
            low_resolution_outputs,
            queue_outputs,
            temperature=self.temperature,
            epsilon=self.sinkhorn_epsilon,
            iterations=self.sinkhorn_iterations,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The numbers, for ``print(module)``."""
        return (
            f"temperature={self.temperature}, sinkhorn_iterations={self.sinkhorn_iterations}, "
            f"sinkhorn_epsilon={self.sinkhorn_epsilon}"
        )


SwaVLoss = SwAVLoss
"""The name that lightly gives it."""
