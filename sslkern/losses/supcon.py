"""SupCon and the decoupled contrastive losses as modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number, check_tensor
from sslkern.ops.supcon import check_variant, dcl_loss, supcon_loss


class SupConLoss(SharedLoss):
    """`sslkern.supcon_loss` with its settings held.

    Args:
        temperature: Positive number.
        variant: ``"out"``, ``"in"``, ``"in_sum"`` or ``"pairwise"``; see the function.
        base_temperature: Where given, the loss is multiplied by temperature / base_temperature.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        strategy: ``"gather"`` or ``"ring"``.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a temperature is not positive and finite, or the variant is unknown.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.SupConLoss(temperature=1.0)
        >>> print(f"{loss(torch.eye(4), torch.tensor([0, 0, 1, 1])).item():.6f}")
        1.098612

    Equals: `sslkern.reference.supcon_loss`.

    Source: Khosla et al., "Supervised Contrastive Learning", 2020,
    https://arxiv.org/abs/2004.11362
    """

    def __init__(
        self,
        temperature: float = 0.1,
        variant: str = "out",
        base_temperature: float | None = None,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        strategy: str = "gather",
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check, strategy)
        check_positive_number(temperature, "temperature", "supcon")
        check_variant(variant)
        if base_temperature is not None:
            check_positive_number(base_temperature, "base_temperature", "supcon")
        self.temperature = temperature
        self.variant = variant
        self.base_temperature = base_temperature

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean loss of the rows of ``z`` (N, D) that share their label (N,) with another row.

        Views (B, V, D) take labels (B,) or none: the views of one sample are then each other's
        positives.
        """
        return supcon_loss(
            z,
            labels,
            self.temperature,
            variant=self.variant,
            base_temperature=self.base_temperature,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        base = self.base_temperature
        return f"temperature={self.temperature}, variant={self.variant!r}, base_temperature={base}"


class DCLLoss(SharedLoss):
    """`sslkern.dcl_loss` behind the constructor and the call of lightly's ``DCLLoss``.

    Args:
        temperature: Positive number.
        weight_fn: Gives the weights (B,) of the positives from the unit rows of both views, each
            (B, D); called for either order of the views. None for no weights.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        strategy: ``"gather"`` or ``"ring"``.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.DCLLoss(temperature=1.0)
        >>> print(f"{loss(torch.eye(3), torch.eye(3)).item():.6f}")
        0.386294

    Equals: `sslkern.reference.dcl_loss`; ``lightly.loss.DCLLoss`` of one process.

    Source: Yeh et al., "Decoupled Contrastive Learning", 2021, https://arxiv.org/abs/2110.06848
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool = False,
        *,
        process_group: dist.ProcessGroup | None = None,
        strategy: str = "gather",
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check, strategy)
        check_positive_number(temperature, "temperature", "supcon")
        self.temperature = temperature
        self.weight_fn = weight_fn

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Mean loss over the 2B rows of two views, each (B, D) with B > 1."""
        return dcl_loss(out0, out1, self.temperature, weight_fn=self.weight_fn, **self.sharing)

    def extra_repr(self) -> str:
        """The temperature, for ``print(module)``."""
        return f"temperature={self.temperature}"


class DCLWLoss(DCLLoss):
    """`DCLLoss` with `negative_mises_fisher_weights`, as lightly's ``DCLWLoss``.

    Args:
        temperature: Positive number.
        sigma: Positive number that divides the similarities in the weights.
        gather_distributed: See `DCLLoss`, and for the options that follow.
        process_group: The ranks; by default all.
        strategy: ``"gather"`` or ``"ring"``.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If a number is not positive and finite.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.DCLWLoss(temperature=1.0)
        >>> print(f"{loss(torch.eye(3), torch.eye(3)).item():.6f}")
        0.386294

    Equals: `sslkern.reference.dcl_loss` with these weights; ``lightly.loss.DCLWLoss`` of one
    process.

    Source: Yeh et al., "Decoupled Contrastive Learning", 2021, https://arxiv.org/abs/2110.06848
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        gather_distributed: bool = False,
        *,
        process_group: dist.ProcessGroup | None = None,
        strategy: str = "gather",
        check: bool = True,
    ) -> None:
        check_positive_number(sigma, "sigma", "supcon")
        weight_fn = partial(negative_mises_fisher_weights, sigma=sigma)
        super().__init__(
            temperature,
            weight_fn,
            gather_distributed,
            process_group=process_group,
            strategy=strategy,
            check=check,
        )
        self.sigma = sigma

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"temperature={self.temperature}, sigma={self.sigma}"


def negative_mises_fisher_weights(a: Tensor, b: Tensor, sigma: float = 0.5) -> Tensor:
    r"""Weights that make pairs count for more the less alike they are already.

    .. math:: w_i = 2 - B \, \mathrm{softmax}_i(a_i \cdot b_i / \sigma)

    Args:
        a: Rows of the first view, (B, D); for `DCLWLoss` they have unit norm.
        b: Rows of the second view, (B, D).
        sigma: Positive number.

    Returns:
        (B,), of mean 1 and without a gradient.

    Raises:
        ValueError: For a wrong shape, or a sigma that is not positive and finite.
        TypeError: For anything but tensors.

    Example:
        >>> import torch, sslkern
        >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> print(sslkern.losses.negative_mises_fisher_weights(a, b))
        tensor([0.2384, 1.7616])

    Equals: ``lightly.loss.dcl_loss.negative_mises_fisher_weights``.

    Source: Yeh et al., "Decoupled Contrastive Learning", 2021, https://arxiv.org/abs/2110.06848
    """
    check_tensor(a, "a", "supcon")
    check_tensor(b, "b", "supcon")
    check_positive_number(sigma, "sigma", "supcon")
    if a.dim() != 2:
        raise ValueError(
            f"sslkern::supcon: expected a to be of shape (B, D), got shape {tuple(a.shape)}"
        )
    if b.shape != a.shape:
        raise ValueError(
            f"sslkern::supcon: expected b to be of the shape of a, {tuple(a.shape)}, "
            f"got shape {tuple(b.shape)}"
        )
    similarity = (a.detach() * b.detach()).sum(1) / sigma
    return 2 - a.shape[0] * similarity.softmax(0)
