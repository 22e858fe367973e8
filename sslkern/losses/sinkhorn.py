"""Sinkhorn-Knopp as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.sinkhorn import EPSILON, check_iterations, sinkhorn


class SinkhornKnopp(SharedLoss):
    """`sslkern.sinkhorn` with its numbers held: what turns scores into targets.

    Args:
        epsilon: Positive number.
        iterations: How many, at least 0.
        gather_distributed: Assign the rows of all ranks together; see `sslkern.sinkhorn`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If epsilon is not positive and finite, or iterations negative.

    Example:
        >>> import torch, sslkern
        >>> assign = sslkern.losses.SinkhornKnopp(epsilon=0.05)
        >>> target = assign(torch.randn(8, 4))
        >>> loss = sslkern.soft_cross_entropy(
        ...     torch.randn(8, 4, requires_grad=True), target, from_probabilities=True
        ... )
        >>> loss.backward()

    Equals: `sslkern.reference.sinkhorn`.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """

    def __init__(
        self,
        epsilon: float = EPSILON,
        iterations: int = 3,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        check_positive_number(epsilon, "epsilon", "sinkhorn")
        check_iterations(iterations, "sinkhorn")
        self.epsilon = epsilon
        self.iterations = iterations

    def forward(self, scores: Tensor, queue: Tensor | None = None) -> Tensor:
        """The plan of ``scores`` (B, K), with the rows of ``queue`` (L, K) in the normalisation."""
        plan: Tensor = sinkhorn(
            scores,
            self.epsilon,
            self.iterations,
            queue=queue,
            **self.sharing,
        )
        return plan

    def extra_repr(self) -> str:
        """The numbers, for ``print(module)``."""
        return f"epsilon={self.epsilon}, iterations={self.iterations}"
