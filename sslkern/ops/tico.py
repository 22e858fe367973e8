"""TiCo: invariance, and rows that keep away from the directions of a running covariance."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslkern.ops._common import check_constant, check_number, check_same_device, refuse
from sslkern.ops._embeddings import (
    check_count,
    check_not_negative,
    check_pair,
    check_rows,
    full_precision,
    working_dtype,
)
from sslkern.parallel.gradients import sum_over_ranks
from sslkern.parallel.processes import Processes, Sharing, meet
from sslkern.parallel.rows import reduce_rows
from sslkern.parallel.whole import check_total, least_rows
from sslkern.reference._common import normalize_rows

_OP = "tico"


class TiCoState(nn.Module):
    """The running covariance of TiCo: a buffer, saved with the state and moved with ``to``.

    It starts at zero. `sslkern.tico_loss` moves it once per call, after the loss was formed and
    before it returns, unless told not to.

    Args:
        dim: Width D of the embeddings. Without it the matrix is empty until the first batch, whose
            width, device and dtype of the arithmetic it takes, or until a state is loaded.

    Raises:
        ValueError: If the width is not positive.
        TypeError: If it is no integer.

    Example:
        >>> import torch, sslkern
        >>> from sslkern.methods import TiCoState
        >>> state = TiCoState(dim=2)
        >>> z = torch.eye(2)
        >>> loss = sslkern.tico_loss(z, z, state)
        >>> [round(x, 4) for x in state.covariance.flatten().tolist()]
        [0.05, 0.0, 0.0, 0.05]

    Source: Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for
    Self-Supervised Visual Representation Learning", 2022, https://arxiv.org/abs/2206.10698
    """

    covariance: Tensor
    """Mean of z z^T over the past, (D, D)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None:
            check_count(dim, "dim", "TiCoState")
        size = 0 if dim is None else dim
        self.register_buffer("covariance", torch.zeros(size, size))

    def start(self, like: Tensor) -> None:
        """Give an empty matrix its shape, from embeddings (N, D) in the dtype of the arithmetic."""
        if self.covariance.shape[0] == 0:
            dim = like.shape[1]
            with torch.inference_mode(False):  # or training could not go on with it
                self.covariance = torch.zeros(dim, dim, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def update(self, covariance: Tensor) -> None:
        """Take over the values of a matrix (D, D) unless one is not finite, which would stay."""
        usable = covariance.isfinite().all()
        self.covariance.copy_(torch.where(usable, covariance, self.covariance))

    def extra_repr(self) -> str:
        """The width, for ``print(module)``."""
        return f"dim={len(self.covariance) or None}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        """Load a matrix into an empty one, and an empty one into any."""
        saved = state_dict.get(f"{prefix}covariance")
        if isinstance(saved, Tensor) and 0 in (len(saved), len(self.covariance)):
            self.covariance = torch.zeros_like(saved, device=self.covariance.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


def tico_loss(
    z_a: Tensor,
    z_b: Tensor,
    state: TiCoState | Tensor,
    *,
    beta: float = 0.9,
    rho: float = 8.0,
    differentiate_covariance: bool = False,
    update: bool = True,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Invariance of two views, and contrast to the directions of the past (TiCo).

    With unit rows :math:`\hat z`, the matrix :math:`C_{t-1}` of the state and

    .. math:: C_t &= \beta C_{t-1} + (1 - \beta) \frac{1}{N} \sum_i \hat z^a_i \hat z^{a\top}_i \\
              \ell &= \frac{1}{N} \sum_i \bigl(1 - \hat z^a_i \cdot \hat z^b_i
                      + \rho\, \hat z^{a\top}_i C_t \hat z^a_i\bigr)

    The state becomes :math:`C_t`, without a gradient, before the function returns; a batch that is
    not finite shows in the loss and leaves the state as it was. There is no N x N matrix.

    Args:
        z_a: Embeddings of the view that the covariance is of (N, D), N >= 2, float64, float32,
            bfloat16 or float16. All arithmetic is in float32 (float64 for float64). Rows with norm
            below 1e-12 count as zero.
        z_b: Embeddings of the other view, in the paper of the momentum encoder, of the shape and
            dtype of ``z_a``.
        state: A `sslkern.methods.TiCoState`, or the matrix C of the step before as a tensor (D, D)
            without a gradient, which is left alone.
        beta: How much of the matrix stays, in [0, 1).
        rho: Weight of the covariance term, not negative; 8 in the paper.
        differentiate_covariance: Whether the gradient also flows through this batch's part of the
            covariance. By default that is a constant, as in lightly.
        update: Whether the state moves on; ``False`` to evaluate a batch that is not trained on.
        gather_distributed: Whether the batch is that of all ranks, each of which gives its rows;
            the covariance is of all, and the state must be the same on all. See `sslkern.parallel`
            for what that means for results and gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or value, or a matrix that requires grad.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> z = torch.eye(4)
        >>> print(f"{sslkern.tico_loss(z, z, torch.zeros(4, 4)).item():.4f}")
        0.2000

    Equals: `sslkern.reference.tico_loss`, of the matrix before the call.

    Source: Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for
    Self-Supervised Visual Representation Learning", 2022, https://arxiv.org/abs/2206.10698
    """
    sharing = Sharing(gather_distributed, process_group, check)

    def check_arguments() -> None:
        check_pair(z_a, z_b, _OP, least_rows(sharing))
        check_constants(beta, rho)
        started = isinstance(state, TiCoState) and state.covariance.shape[0] == 0
        if not started:
            _check_matrix(state.covariance if isinstance(state, TiCoState) else state, z_a)

    options = {
        "beta": beta,
        "rho": rho,
        "differentiate_covariance": differentiate_covariance,
        "update": update,
    }
    processes = meet(_OP, sharing, {"z_a": z_a, "z_b": z_b}, options, check_arguments)
    dtype = working_dtype(z_a, z_b)
    with full_precision(z_a):
        a, b = normalize_rows(z_a.to(dtype)), normalize_rows(z_b.to(dtype))
        if isinstance(state, TiCoState):
            state.start(a.detach())
            earlier = state.covariance
        else:
            earlier = state
        batch = _mean_square(processes, a if differentiate_covariance else a.detach())
        covariance = beta * earlier.to(dtype) + (1 - beta) * batch
        rows = 1 - (a * b).sum(1) + rho * ((a @ covariance) * a).sum(1)
        loss = reduce_rows(processes, rows, None, "mean")
        if update and isinstance(state, TiCoState):
            state.update(covariance.detach())
    return loss


def _mean_square(processes: Processes | None, a: Tensor) -> Tensor:
    """The mean of a a^T over the rows of all ranks, (D, D)."""
    if processes is None:
        return a.T @ a / len(a)
    check_total(processes, "z_a")
    return sum_over_ranks(processes, a.T @ a) / processes.total("z_a")


def check_constants(beta: float, rho: float) -> None:
    """Reject what is no number or out of its range."""
    check_number(beta, "beta", _OP)
    if not 0 <= beta < 1:
        refuse(_OP, "beta", "in [0, 1)", beta)
    check_not_negative(rho, "rho", _OP)


def _check_matrix(matrix: Tensor, z: Tensor) -> None:
    check_rows(matrix, "state", _OP, "DD", least=1)
    check_constant(matrix, "state", _OP)
    check_same_device(matrix, "state", z, "z_a", _OP)
    dim = z.shape[1]
    if matrix.shape != (dim, dim):
        got = f"shape {tuple(matrix.shape)}"
        refuse(_OP, "state", f"of shape (D, D) with the D of z_a, {dim}", got)
