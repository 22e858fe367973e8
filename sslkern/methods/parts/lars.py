"""LARS: SGD whose step of each tensor is in proportion to the tensor's own length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_not_negative

_OP = "LARS"


def is_vector(parameter: Tensor) -> bool:
    """Whether a parameter has one dimension or none: biases, scales and shifts of norms."""
    return parameter.dim() <= 1


class LARS(torch.optim.Optimizer):
    r"""SGD with momentum and a trust ratio for each tensor, for training in large batches.

    .. math::
        \rho &= \frac{\eta \lVert w \rVert}
                     {\lVert g \rVert + \beta \lVert w \rVert + \epsilon} \\
        v &\leftarrow \mu v + \rho\,(g + \beta w) \\
        w &\leftarrow w - \gamma v

    with the learning rate :math:`\gamma`, as `torch.optim.SGD` has it: at a constant rate this is
    the paper's, which keeps :math:`\gamma v`. The ratio of a tensor of zeros is 1, so that it can
    leave zero.

    Excluded parameters get neither the ratio nor weight decay: plain SGD with momentum. As in
    SimCLR, BYOL and Barlow Twins these are biases and the parameters of norms. A parameter group
    may say ``adapt`` for all of its parameters instead: True or False; None asks ``exclude``.

    Args:
        params: Parameters or groups of them. A group may override each number below.
        lr: Learning rate, positive. A scheduler may set it to 0 later.
        momentum: From 0 to 1.
        weight_decay: The factor of w, not negative.
        trust_coefficient: The factor of the ratio, positive.
        eps: Added to the denominator of the ratio, positive.
        clip: Take :math:`\min(\rho / \gamma, 1)` for the ratio: a rate of at most
            :math:`\gamma`. This is LARC, as SwAV's code has it without clipping.
        exclude: Says which parameters get neither ratio nor weight decay. It is asked at every
            step and is no part of ``state_dict``.

    Raises:
        ValueError: For a number outside its range, here or in a group.
        TypeError: For what is no number, or no bool where one is meant; in ``step`` for sparse
            gradients.

    Example:
        >>> import torch
        >>> from sslkern.methods.parts.lars import LARS
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = LARS([weight], lr=1.0, trust_coefficient=0.1)
        >>> weight.grad = torch.tensor([[0.0, 100.0]])
        >>> optimizer.step()
        >>> print([round(w, 4) for w in weight[0].tolist()])  # shorter by 0.1 of its length 5
        [3.0, 3.5]

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
    https://arxiv.org/abs/1708.03888
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        *,
        eps: float = 1e-8,
        clip: bool = False,
        exclude: Callable[[Tensor], bool] = is_vector,
    ) -> None:
        if not callable(exclude):
            raise TypeError(
                f"sslkern::{_OP}: expected exclude to be a function of a parameter, "
                f"got {type(exclude).__name__}"
            )
        self.exclude = exclude
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "clip": clip,
            "adapt": None,
        }
        _check_group(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with numbers of its own where it has some.

        Raises:
            ValueError: For a number outside its range.
            TypeError: For what is no number, a ``clip`` that is no bool, and an ``adapt`` that is
                neither a bool nor None.
        """
        _check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient.

        Args:
            closure: Computes the loss and its gradients anew.

        Returns:
            What the closure returns, or None.

        Raises:
            TypeError: For a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.layout != torch.strided:
            raise TypeError(
                f"sslkern::{_OP}: expected gradients to be dense, got layout {gradient.layout}"
            )
        adapt = group["adapt"]
        if not self.exclude(parameter) if adapt is None else adapt:
            ratio = _trust_ratio(parameter, gradient, group)
            gradient = gradient.add(parameter, alpha=group["weight_decay"]).mul_(ratio)
        if group["momentum"] != 0:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            gradient = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        parameter.add_(gradient, alpha=-group["lr"])

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files keep the predicate, which must then be one that pickle can name."""
        return {**super().__getstate__(), "exclude": self.exclude}


def _trust_ratio(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """The factor of the gradient and the weight decay, a 0-d tensor: a GPU is not waited for."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    length, slope = (torch.linalg.vector_norm(x, dtype=dtype) for x in (parameter, gradient))
    denominator = slope + group["weight_decay"] * length + group["eps"]
    ratio = group["trust_coefficient"] * length / denominator
    if group["clip"]:
        ratio = (ratio / group["lr"]).clamp_max(1)
    return torch.where(length > 0, ratio, 1)


def _check_group(group: dict[str, Any]) -> None:
    check_positive_number(group["lr"], "lr", _OP)
    check_share(group["momentum"], "momentum", _OP)
    check_not_negative(group["weight_decay"], "weight_decay", _OP)
    check_positive_number(group["trust_coefficient"], "trust_coefficient", _OP)
    check_positive_number(group["eps"], "eps", _OP)
    for name, kinds in (("clip", (bool,)), ("adapt", (bool, type(None)))):
        if not isinstance(group[name], kinds):
            kind = "a bool or None" if len(kinds) == 2 else "a bool"
            got = type(group[name]).__name__
            raise TypeError(f"sslkern::{_OP}: expected {name} to be {kind}, got {got}")
