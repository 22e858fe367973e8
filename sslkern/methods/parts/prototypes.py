"""Prototypes: directions that embeddings are compared with, frozen at first as SwAV's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count
from sslkern.reference._common import NORM_EPS

_OP = "Prototypes"


class Prototypes(nn.Module):
    """Scores of embeddings against K learned rows, which have unit norm and no bias.

    Before every forward pass the rows are scaled to unit norm in place. For the first
    ``freeze_iterations`` backward passes the gradient of the rows is dropped (``grad`` is None)
    once it was accumulated: optimizers then leave them alone, with their weight decay and their
    momentum. The count of these passes is saved with the state. Several forward passes may share a
    backward pass, and gradients of the embeddings are not touched.

    Under ``DistributedDataParallel``, which writes gradients itself, a dropped gradient is zero
    rather than None: the weight decay of SGD or AdamW then shrinks rows, which normalization
    undoes.

    Args:
        dim: Width D of the embeddings.
        count: Number K of prototypes.
        freeze_iterations: Number of backward passes without a gradient; 313 or 5005 in the paper's
            code for large or small batches.
        normalize: Keep the rows at unit norm.
        generator: Source of the first rows, random ones of unit norm.

    Raises:
        ValueError: If a number is not positive, or ``freeze_iterations`` is negative.
        TypeError: If a number is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import Prototypes
        >>> prototypes = Prototypes(dim=8, count=32, freeze_iterations=1)
        >>> embeddings = torch.nn.functional.normalize(torch.randn(4, 8))
        >>> for _ in range(2):
        ...     prototypes(embeddings).square().sum().backward()
        ...     print(prototypes.weight.grad is None)
        True
        False

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, https://arxiv.org/abs/2006.09882
    """

    weight: nn.Parameter
    """Rows (K, D)."""
    iteration: Tensor
    """Number of backward passes whose gradient was dropped, a 0-d int64 tensor."""

    def __init__(
        self,
        dim: int,
        count: int,
        *,
        freeze_iterations: int = 0,
        normalize: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count(dim, "dim", _OP)
        check_count(count, "count", _OP)
        if freeze_iterations != 0:
            check_count(freeze_iterations, "freeze_iterations", _OP)
        self.freeze_iterations = freeze_iterations
        self.normalize = normalize
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self._thawed = False
        self._watched = 0
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim, generator=generator)))
        self._watch()

    @property
    def frozen(self) -> bool:
        """Whether the next backward pass leaves the rows without a gradient."""
        return int(self.iteration) < self.freeze_iterations

    def forward(self, embeddings: Tensor) -> Tensor:
        """Inner products with the prototypes.

        Args:
            embeddings: (..., D), as they are; of unit norm in SwAV, where scores are cosines.

        Returns:
            Scores (..., K).

        Raises:
            ValueError: If the width is another.
        """
        dim = self.weight.shape[1]
        if embeddings.dim() == 0 or embeddings.shape[-1] != dim:
            refuse(_OP, "embeddings", f"of shape (..., {dim})", f"shape {tuple(embeddings.shape)}")
        if self.normalize:
            self.normalize_rows()
        return F.linear(embeddings, self.weight)

    @torch.no_grad()
    def normalize_rows(self) -> None:
        """Scale the rows to unit norm in place, except those below 1e-12.

        Rows that have it already keep every bit. So a second forward pass changes nothing that the
        backward pass of the first one needs, and autograd is not told of the change.
        """
        weight = self.weight.data
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True, dtype=torch.float64)
        fine = ((norm - 1).abs() <= torch.finfo(weight.dtype).eps) | (norm < NORM_EPS)
        weight.div_(norm.masked_fill(fine, 1.0))

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        count, dim = self.weight.shape
        return (
            f"dim={dim}, count={count}, freeze_iterations={self.freeze_iterations}, "
            f"normalize={self.normalize}"
        )

    def _drop_gradient(self, weight: Tensor) -> None:
        """Run by autograd after it added to ``weight.grad``."""
        if self._thawed:  # without waiting for a GPU to say so again
            return
        if self.frozen:
            self.iteration.add_(1)
            weight.grad = None
        else:
            self._thawed = True

    def _watch(self) -> None:
        """Hook `_drop_gradient` to the weight, where this tensor has it not yet."""
        new = self._watched != id(self.weight)
        if self.freeze_iterations > 0 and new and self.weight.requires_grad:
            self.weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._drop_gradient
            )
            self._watched = id(self.weight)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._thawed = False
        self._watch()  # a state that is assigned brings its own tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Prototypes:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._watch()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and files have no hooks."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._watched = 0
        self._watch()
