"""The losses of pytorch-metric-learning, computed by ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkern.integrations._patch import (
    Patch,
    need,
    need_own_methods,
    patch_library,
    replacement,
)
from sslkern.integrations._tensors import as_library, need_tensors
from sslkern.ops import info_nce_loss, supcon_loss


def patch_pytorch_metric_learning() -> Patch:
    """Have ``NTXentLoss`` and ``SupConLoss`` of pytorch-metric-learning compute by sslkern.

    In place: the classes stay the library's, with their instances, subclasses, pickles and
    records; replaced is ``compute_loss``, so that regularizers, reducers and wrappers are the
    library's own. ``SelfSupervisedLoss`` around them is served, symmetric or not. Served are

    - ``CosineSimilarity`` and ``DotProductSimilarity``, the one with ``p=2``, both with
      ``power=1``,
    - labels of any integer dtype,
    - for ``SupConLoss`` every reducer, for ``NTXentLoss`` ``MeanReducer``, its default; without
      statistics of the pairs,
    - ``ref_emb`` where row i of both has the same label and no other row has it.

    What else there is runs the library's own code, with one `FallbackWarning` per class and
    reason: ``indices_tuple`` of a miner (``CrossBatchMemory`` and the efficient form of
    ``DistributedLossWrapper`` make one), another ``ref_emb``, distance or reducer,
    ``collect_stats``, labels of a dtype with fractions, a method that a subclass overrides.

    Where the numbers differ on purpose: the library's ``NTXentLoss`` ends at the logarithm of the
    smallest normal number of its dtype, which float32 reaches for a pair that is 87 temperatures
    behind and float16 for one that is 10, and has no gradient from there on; ours goes on. Rows
    whose norm is below 1e-12 get no gradient, half types are computed in float32. A second
    derivative is the library's own.

    Returns:
        The patch: end it with ``unpatch()``, or use it in a ``with`` statement.

    Raises:
        ImportError: If the library is not installed, or of a version that was not tested, see
            `sslkern.integrations.TESTED`.

    Example:
        >>> from pytorch_metric_learning.losses import SupConLoss  # doctest: +SKIP
        >>> import torch, sslkern  # doctest: +SKIP
        >>> with sslkern.integrations.patch_pytorch_metric_learning():  # doctest: +SKIP
        ...     loss = SupConLoss(temperature=1.0)(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> print(f"{loss.item():.6f}")  # doctest: +SKIP
        1.098612

    Source: https://github.com/KevinMusgrave/pytorch-metric-learning
    """
    return patch_library(
        "pytorch-metric-learning",
        "pytorch_metric_learning.losses",
        lambda module: [
            replacement(
                getattr(module, name),
                "compute_loss",
                f"pytorch_metric_learning.losses.{name}",
                ours(getattr(module, name)),
                again=again,
            )
            for name, (ours, again) in _LOSSES.items()
        ],
    )


Compute = Callable[..., dict[str, Any]]
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_HOOKS = ("_compute_loss", "mat_based_loss", "pair_based_loss", "zero_losses", "zero_loss")


def _ntxent(cls: type) -> Compute:
    from pytorch_metric_learning.reducers import MeanReducer

    def compute_loss(
        self: Any,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any,
        ref_emb: Tensor,
        ref_labels: Tensor,
    ) -> dict[str, Any]:
        need_own_methods(self, cls, *_HOOKS)
        need(type(self.reducer) is MeanReducer, "a reducer that needs the pairs")
        need(not self.reducer.collect_stats, "statistics of the pairs")
        inputs = (embeddings, labels, indices_tuple, ref_emb, ref_labels)
        mean = _rows(self, "pairwise", "mean", *inputs)
        return _losses(self, mean, None, "already_reduced")

    return compute_loss


def _supcon(cls: type) -> Compute:
    def compute_loss(
        self: Any,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any,
        ref_emb: Tensor,
        ref_labels: Tensor,
    ) -> dict[str, Any]:
        need_own_methods(self, cls, *_HOOKS)
        inputs = (embeddings, labels, indices_tuple, ref_emb, ref_labels)
        rows = _rows(self, "out", "none", *inputs)
        indices = None if rows is None else torch.arange(len(rows), device=rows.device)
        return _losses(self, rows, indices, "element")

    return compute_loss


def _losses(self: Any, losses: Tensor | None, indices: Tensor | None, kind: str) -> dict[str, Any]:
    """As the library's reducers take them; its zero where there is no pair of one of the kinds."""
    if losses is None:
        zero: dict[str, Any] = self.zero_losses()
        return zero
    return {"loss": {"losses": losses, "indices": indices, "reduction_type": kind}}


def _rows(
    self: Any,
    variant: str,
    reduction: str,
    embeddings: Tensor,
    labels: Tensor,
    indices_tuple: Any,
    ref_emb: Tensor,
    ref_labels: Tensor,
) -> Tensor | None:
    """The losses of the rows or their mean; None where there is no pair of one of the kinds."""
    need(indices_tuple is None, "indices_tuple of a miner")
    need_tensors(embeddings, labels)
    need(labels.dim() == 1 and labels.dtype in _INTEGERS, "labels of another kind")
    need(embeddings.dim() == 2, "embeddings of another shape")
    normalize = _normalizes(self.distance)
    classes, members = torch.unique(labels, return_inverse=True)
    if ref_emb is embeddings and ref_labels is labels:
        if len(classes) in (1, len(labels)):
            return None
        loss = supcon_loss(
            embeddings,
            members,
            self.temperature,
            variant=variant,
            normalize=normalize,
            reduction=reduction,
        )
        return as_library(loss, embeddings)
    need_tensors(ref_emb, ref_labels)
    own = len(classes) == len(labels) and torch.equal(labels, ref_labels)
    need(own, "a ref_emb whose rows are not each the only match of one of embeddings")
    if len(labels) == 1:
        return None
    loss = info_nce_loss(
        embeddings,
        ref_emb,
        temperature=self.temperature,
        normalize=normalize,
        reduction=reduction,
    )
    return as_library(loss, embeddings)


def _normalizes(distance: Any) -> bool:
    """Whether the similarity is of unit rows; leaves any but the two it knows to the library."""
    from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity

    need(type(distance) in (CosineSimilarity, DotProductSimilarity), "another distance")
    need(not distance.collect_stats, "statistics of the distance")
    need(distance.power == 1 and distance.is_inverted, "a distance with a power")
    normalize = bool(distance.normalize_embeddings)
    need(distance.p == 2 or not normalize, "a distance of another norm")
    return normalize


def _mean_of_pairs(original: Compute) -> Compute:
    """The original with the mean that ours returns in place of the losses of pairs."""

    def compute_loss(*args: Any, **kwargs: Any) -> dict[str, Any]:
        pairs = original(*args, **kwargs)["loss"]["losses"]
        return {"loss": {"losses": pairs.mean(), "indices": None}}

    return compute_loss


_LOSSES: dict[str, tuple[Callable[[type], Compute], Callable[[Compute], Compute]]] = {
    "NTXentLoss": (_ntxent, _mean_of_pairs),
    "SupConLoss": (_supcon, lambda original: original),
}
