"""lightly's losses, computed by ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.integrations._patch import (
    Patch,
    need,
    need_own_methods,
    never,
    patch_library,
    replacement,
)
from sslkern.integrations._tensors import are_several, as_library, need_even_rows, need_tensors
from sslkern.ops import (
    barlow_twins_loss,
    dcl_loss,
    frossl_loss,
    info_nce_loss,
    invariance_loss,
    mmcr_loss,
    ntxent_loss,
    swav_loss,
    tico_loss,
    vicreg_loss,
)
from sslkern.ops.tico import TiCoState


def patch_lightly() -> Patch:
    """Have the losses of lightly compute by sslkern, in place.

    The classes stay lightly's: only their ``forward`` is replaced, so that instances that are
    there already, subclasses, pickles and states go on as they are. Replaced are, of
    ``lightly.loss``:

    - ``NTXentLoss``, with its memory bank as well (the bank stays lightly's), and with it
      ``DirectCLRLoss``, which is made of it,
    - ``DCLLoss`` and ``DCLWLoss``,
    - ``SwaVLoss``, ``BarlowTwinsLoss``, ``VICRegLoss``, ``TiCoLoss``, ``MMCRLoss``,
      ``FroSSLLoss``.

    Left alone is what has no equal here: ``WMSELoss`` keeps running statistics of its whitening
    and takes any number of views and any distance; ``KoLeoLoss`` adds ``eps`` to each coordinate
    of a difference, which is another loss where rows coincide; ``DINOLoss``, ``MSNLoss`` and their
    like move centers or targets of their own. The functions beside the classes, such as
    ``swav_loss.sinkhorn``, stay as well.

    What ours does not serve runs lightly's own code, with one `FallbackWarning` per class and
    reason: a negative temperature, views of more than two dimensions, another
    ``cross_entropy``, a method that a subclass overrides, ``weight_fn`` or Sinkhorn's assignment
    over several processes, batches of different sizes there, forward-mode derivatives and
    `torch.func`. With ``gather_distributed`` and as many rows on each process, values and gradients
    are those of lightly: the loss of a rank's own rows where lightly has that.

    Where the numbers differ on purpose: rows whose norm is below 1e-12 get no gradient, in
    lightly one that is 1e12 times too large; half types are computed in float32, and under
    autocast the loss is float32; Sinkhorn's exponentials do not overflow; a batch that is not
    finite does not spoil the covariance of TiCo, nor end MMCR with an error. A second derivative
    is lightly's own; with a memory bank, another ``weight_fn`` than that of ``DCLWLoss``, or a
    temperature that is learned, it raises.

    Returns:
        The patch: end it with ``unpatch()``, or use it in a ``with`` statement.

    Raises:
        ImportError: If lightly is not installed, or of a version that was not tested, see
            `sslkern.integrations.TESTED`.

    Example:
        >>> from lightly.loss import NTXentLoss  # doctest: +SKIP
        >>> import torch, sslkern  # doctest: +SKIP
        >>> patch = sslkern.integrations.patch_lightly()  # doctest: +SKIP
        >>> loss = NTXentLoss(temperature=0.5)  # doctest: +SKIP
        >>> print(f"{loss(torch.eye(2), torch.eye(2)).item():.6f}")  # doctest: +SKIP
        0.239545
        >>> patch.unpatch()  # doctest: +SKIP

    Source: https://github.com/lightly-ai/lightly
    """
    return patch_library(
        "lightly",
        "lightly.loss",
        lambda module: [
            replacement(
                getattr(module, name),
                "forward",
                f"lightly.loss.{name}",
                ours(module),
                _ONCE.get(name, never),
            )
            for name, ours in _LOSSES.items()
        ],
    )


Forward = Callable[..., Tensor]


def _ntxent(module: Any) -> Forward:
    from lightly.models.modules.memory_bank import MemoryBankModule

    def forward(self: Any, out0: Tensor, out1: Tensor) -> Tensor:
        need_tensors(out0, out1)
        need(_is_plain(self.cross_entropy), "another cross_entropy")
        need(type(self.memory_bank) is MemoryBankModule, "another memory_bank")
        if self.memory_bank.size[0] != 0:
            return _against_bank(self, out0, out1)
        if not (self.gather_distributed and are_several()):
            return as_library(ntxent_loss(out0, out1, self.temperature), out0)
        need_even_rows(out0)
        rows = ntxent_loss(out0, out1, self.temperature, reduction="none", gather_distributed=True)
        return as_library(rows.mean(), out0)

    return forward


def _is_plain(loss: object) -> bool:
    """Whether a cross entropy is the mean that lightly's constructor makes."""
    return type(loss) is nn.CrossEntropyLoss and (
        loss.weight,
        loss.ignore_index,
        loss.reduction,
        loss.label_smoothing,
    ) == (None, -100, "mean", 0.0)


def _against_bank(self: Any, out0: Tensor, out1: Tensor) -> Tensor:
    """One direction, as MoCo; the bank is read, and then takes the keys as lightly has it."""
    bank = self.memory_bank
    need(bank.feature_dim_first, "another memory_bank")
    a, b = F.normalize(out0, dim=1), F.normalize(out1, dim=1)
    loss = info_nce_loss(
        a,
        b,
        bank.bank.detach().clone().to(out0.device),
        temperature=self.temperature,
        normalize=False,
    )
    if a.requires_grad:
        bank._dequeue_and_enqueue(b)
    return as_library(loss, out0)


def _dcl(module: Any) -> Forward:
    def forward(self: Any, out0: Tensor, out1: Tensor) -> Tensor:
        need_own_methods(self, module.DCLLoss, "_loss")
        need_tensors(out0, out1)
        several = self.gather_distributed and are_several()
        need(not (several and self.weight_fn), "weight_fn over several processes")
        if several:
            need_even_rows(out0)
        loss = dcl_loss(
            out0,
            out1,
            self.temperature,
            weight_fn=self.weight_fn or None,
            reduction="none" if several else "mean",
            gather_distributed=several,
        )
        return as_library(loss.mean(), out0)

    return forward


def _swav(module: Any) -> Forward:
    def forward(
        self: Any,
        high_resolution_outputs: Sequence[Tensor],
        low_resolution_outputs: Sequence[Tensor],
        queue_outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        need_own_methods(self, module.SwaVLoss, "subloss")
        several = self.sinkhorn_gather_distributed and are_several()
        need(not several, "sinkhorn_gather_distributed over several processes")
        need(self.sinkhorn_iterations != 0, "sinkhorn_iterations of 0")
        loss = swav_loss(
            high_resolution_outputs,
            low_resolution_outputs,
            queue_outputs,
            temperature=self.temperature,
            epsilon=self.sinkhorn_epsilon,
            iterations=self.sinkhorn_iterations,
        )
        return loss.to(high_resolution_outputs[0].dtype).reshape(1)

    return forward


def _barlow_twins(module: Any) -> Forward:
    def forward(self: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
        need_tensors(z_a, z_b)
        several = self.gather_distributed and are_several()
        if several:
            need_even_rows(z_a)
        loss = barlow_twins_loss(
            z_a,
            z_b,
            self.lambda_param,
            statistics="local" if several else "global",
            gather_distributed=several,
        )
        return as_library(loss, z_a)

    return forward


def _vicreg(module: Any) -> Forward:
    def forward(self: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
        need_tensors(z_a, z_b)
        weights = (self.lambda_param, self.mu_param, self.nu_param)
        if not (self.gather_distributed and are_several()):
            return as_library(vicreg_loss(z_a, z_b, *weights, eps=self.eps), z_a)
        need_even_rows(z_a)
        # The invariance is that of this rank's rows, all else of the rows of all.
        shared = vicreg_loss(z_a, z_b, 0.0, *weights[1:], eps=self.eps, gather_distributed=True)
        return as_library(weights[0] * invariance_loss(z_a, z_b) + shared, z_a)

    return forward


def _tico(module: Any) -> Forward:
    def forward(
        self: Any, z_a: Tensor, z_b: Tensor, update_covariance_matrix: bool = True
    ) -> Tensor:
        need_tensors(z_a, z_b)
        several = self.gather_distributed and are_several()
        if several:
            need_even_rows(z_a)
        state = TiCoState()
        if self.C is not None:
            state.covariance = self.C.detach().clone()
        loss = tico_loss(
            z_a,
            z_b,
            state,
            beta=self.beta,
            rho=self.rho,
            update=bool(update_covariance_matrix),
            gather_distributed=several,
        )
        if update_covariance_matrix or self.C is None:
            self.C = as_library(state.covariance, z_a)
        return as_library(loss, z_a)

    return forward


def _mmcr(module: Any) -> Forward:
    def forward(self: Any, online: Tensor, momentum: Tensor) -> Tensor:
        need_tensors(online, momentum)
        need(online.dim() == 3 and online.shape == momentum.shape, "views of other shapes")
        views = torch.cat([online, momentum], dim=1)
        return as_library(mmcr_loss(views, lmda=self.lmda, normalize=False), online)

    return forward


def _frossl(module: Any) -> Forward:
    def forward(self: Any, z_views: Sequence[Tensor]) -> Tensor:
        need_tensors(*z_views)
        loss = frossl_loss(list(z_views), invariance_weight=self.invariance_weight)
        return as_library(loss, z_views[0])

    return forward


_LOSSES: dict[str, Callable[[Any], Forward]] = {
    "NTXentLoss": _ntxent,
    "DCLLoss": _dcl,
    "SwaVLoss": _swav,
    "BarlowTwinsLoss": _barlow_twins,
    "VICRegLoss": _vicreg,
    "TiCoLoss": _tico,
    "MMCRLoss": _mmcr,
    "FroSSLLoss": _frossl,
}


def _has_own_weights(module: Any) -> bool:
    """Whether there are weights, and not those of ``DCLWLoss``, which have no parameters."""
    from lightly.loss.dcl_loss import negative_mises_fisher_weights

    function = getattr(module.weight_fn, "func", module.weight_fn)
    return function not in (None, negative_mises_fisher_weights)


# A bank has moved on, a function may have parameters; the last three are eager PyTorch here, too.
_ONCE: dict[str, Callable[[Any], bool]] = {
    "NTXentLoss": lambda module: module.memory_bank.size[0] != 0,
    "DCLLoss": _has_own_weights,
    "TiCoLoss": lambda module: True,
    "MMCRLoss": lambda module: True,
    "FroSSLLoss": lambda module: True,
}
