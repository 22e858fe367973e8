"""Softmax cross entropy over a vocabulary as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number, check_reduction, check_tensor
from sslkern.ops.linear_cross_entropy import linear_cross_entropy

_OP = "linear_cross_entropy"


class LinearCrossEntropyLoss(SharedLoss):
    """`sslkern.linear_cross_entropy` with its options held.

    ``torch.nn.LinearCrossEntropyLoss`` owns its linear layer. This module has no parameters: the
    matrix of the classes and their bias come with each call, so that they may belong to another
    module; in a language model the matrix is often that of the input embedding. Other differences:

    - What is ``weight`` there is ``class_weight`` here.
    - ``ignore_index`` is always a number, and of no effect where the targets are probabilities.
    - Where all rows are ignored the mean is 0, not NaN.
    - ``input`` has one or more leading dimensions; the classes have one, and so one loss per row.
    - There is a ``softcap``.

    Args:
        ignore_index: Rows with this target have loss 0 and take no part in the mean.
        label_smoothing: Part of the target spread evenly over the classes, in [0, 1].
        class_weight: Weight of each class, (V,), not negative; a buffer, as the ``weight`` of
            ``torch.nn.CrossEntropyLoss``.
        softcap: Where given, the logits become softcap * tanh(logits / softcap); positive.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``; see the function.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is out of range or the reduction unknown.
        TypeError: If ``class_weight`` is no tensor.

    Example:
        >>> import torch, sslkern
        >>> embedding = torch.nn.Embedding(30, 8)
        >>> loss = sslkern.losses.LinearCrossEntropyLoss(ignore_index=0)
        >>> hidden, tokens = torch.zeros(2, 5, 8), torch.arange(10).reshape(2, 5)
        >>> print(f"{loss(hidden, embedding.weight, tokens).item():.6f}")  # log 30
        3.401197

    Equals: `sslkern.reference.linear_cross_entropy`; ``torch.nn.CrossEntropyLoss`` of the logits.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2018, https://arxiv.org/abs/1810.04805; without the logits: Wijmans et al.,
    "Cut Your Losses in Large-Vocabulary Language Models", 2024, https://arxiv.org/abs/2411.09009
    """

    class_weight: Tensor | None

    def __init__(
        self,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        class_weight: Tensor | None = None,
        softcap: float | None = None,
        reduction: str = "mean",
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"sslkern::{_OP}: expected label_smoothing to be in [0, 1], got {label_smoothing}"
            )
        if class_weight is not None:
            check_tensor(class_weight, "class_weight", _OP)
        if softcap is not None:
            check_positive_number(softcap, "softcap", _OP)
        check_reduction(reduction, _OP)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weight", class_weight)
        self.softcap = softcap
        self.reduction = reduction

    def forward(
        self, input: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Loss of the rows of ``input`` (..., D) against the classes ``weight`` (V, D).

        ``target`` holds a class for each row, (...) int64, or the probabilities of the classes,
        (..., V). ``bias`` (V,) is added to the logits.
        """
        return linear_cross_entropy(
            input,
            weight,
            target,
            bias=bias,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            class_weight=self.class_weight,
            softcap=self.softcap,
            reduction=self.reduction,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing}, "
            f"softcap={self.softcap}, reduction={self.reduction!r}"
        )
