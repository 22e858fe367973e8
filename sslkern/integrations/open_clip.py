"""open_clip's losses, computed by ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from sslkern.integrations._patch import (
    Patch,
    need,
    need_own_methods,
    patch_library,
    replacement,
)
from sslkern.integrations._tensors import are_several, as_library, need_even_rows, need_tensors
from sslkern.losses._open_clip import clip_of_processes, siglip_of_processes


def patch_open_clip() -> Patch:
    """Have the losses of open_clip compute by sslkern, in place.

    Replaced is ``forward`` of ``open_clip.ClipLoss`` (``CoCaLoss`` calls it) and of
    ``open_clip.SigLipLoss``; the classes stay open_clip's, with their instances, subclasses,
    pickles and cached labels. ``DistillClipLoss`` needs the logits themselves and is left alone.

    In several processes values and gradients of the features are those of open_clip: with
    ``local_loss`` and for ``SigLipLoss`` the loss of a rank's own rows. Of the gradient of
    ``logit_scale`` it is the mean over the ranks that is the same, which DistributedDataParallel
    takes.

    What ours does not serve runs open_clip's own code, with one `FallbackWarning` per class and
    reason: Horovod; several processes without ``gather_with_grad``, where open_clip leaves out a
    part of the gradient, or with different numbers of rows; a scale that is not positive, a scale
    or bias of several elements; a method that a subclass overrides.

    Where the numbers differ on purpose: half types are computed in float32; ``ClipLoss`` gives
    ``logit_bias``, which changes nothing, a gradient of exactly 0. A second
    derivative is open_clip's own.

    Returns:
        The patch: end it with ``unpatch()``, or use it in a ``with`` statement.

    Raises:
        ImportError: If open_clip is not installed, or of a version that was not tested, see
            `sslkern.integrations.TESTED`.

    Example:
        >>> from open_clip.loss import ClipLoss  # doctest: +SKIP
        >>> import torch, sslkern  # doctest: +SKIP
        >>> with sslkern.integrations.patch_open_clip():  # doctest: +SKIP
        ...     loss = ClipLoss()(torch.eye(2), torch.eye(2), torch.tensor(2.0))
        >>> print(f"{loss.item():.6f}")  # doctest: +SKIP
        0.126928

    Source: https://github.com/mlfoundations/open_clip
    """
    return patch_library(
        "open_clip_torch",
        "open_clip.loss",
        lambda module: [
            replacement(getattr(module, name), "forward", f"open_clip.{name}", ours(module))
            for name, ours in _LOSSES.items()
        ],
    )


Result = Tensor | dict[str, Tensor]
Forward = Callable[..., Result]


def _clip(module: Any) -> Forward:
    def forward(
        self: Any,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Result:
        need_own_methods(self, module.ClipLoss, "get_logits", "get_ground_truth")
        _check_call(image_features, text_features, logit_scale, logit_bias)
        need(not self.use_horovod, "use_horovod")
        several = self.world_size > 1
        if several:
            need(self.gather_with_grad, "several processes without gather_with_grad")
            _need_processes(self, image_features, text_features)
        loss = clip_of_processes(
            image_features,
            text_features,
            logit_scale,
            logit_bias,
            world_size=self.world_size,
            local_loss=self.local_loss,
        )
        if self.cache_labels:
            batch = len(image_features)
            count = batch * self.world_size if several and not self.local_loss else batch
            self.get_ground_truth(image_features.device, count)
        return _result(loss, image_features, output_dict)

    return forward


def _siglip(module: Any) -> Forward:
    def forward(
        self: Any,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Result:
        hooks = ("get_logits", "get_ground_truth", "_loss")
        need_own_methods(self, module.SigLipLoss, *hooks)
        _check_call(image_features, text_features, logit_scale, logit_bias)
        if self.world_size != 1:
            _need_processes(self, image_features, text_features)
        loss = siglip_of_processes(
            image_features,
            text_features,
            logit_scale,
            logit_bias,
            world_size=self.world_size,
            dist_impl=self.dist_impl,
        )
        return _result(loss, image_features, output_dict)

    return forward


def _check_call(
    image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float | None
) -> None:
    """Leave what PyTorch would broadcast or promote to open_clip."""
    need_tensors(image, text)
    for name, value in (("logit_scale", scale), ("logit_bias", bias)):
        if isinstance(value, Tensor):
            need(value.dim() == 0 or value.dtype == image.dtype, f"a {name} of another dtype")
            need(value.dim() < 3 and value.numel() == 1, f"a {name} of several elements")


def _need_processes(self: Any, *features: Tensor) -> None:
    need(are_several(), "several processes without torch.distributed")
    there = dist.get_rank(), dist.get_world_size()
    need((self.rank, self.world_size) == there, "other processes than torch.distributed's")
    need_even_rows(*features)


def _result(loss: Tensor, like: Tensor, output_dict: bool) -> Result:
    loss = as_library(loss, like)
    return {"contrastive_loss": loss} if output_dict else loss


_LOSSES: dict[str, Callable[[Any], Forward]] = {"ClipLoss": _clip, "SigLipLoss": _siglip}
