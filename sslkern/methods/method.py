"""What every method is: a module whose forward pass is the loss, around the user's encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkern.ops._common import refuse


class Method(nn.Module):
    """Losses and state around an encoder.

    The forward pass takes the views of a batch and returns the scalar loss. In training mode it
    also takes what the method remembers of the batch into its queue, memory or center; in
    evaluation mode nothing is remembered. What is kept after training is `encoder`.

    A training step is the same for all methods::

        loss = method(*views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.update(progress)

    A method knows nothing of other processes. Under ``DistributedDataParallel`` each one has its
    loss over its own part of the batch, and queues, memories, centers and covariances of what it
    saw itself: as in the papers' code only where that gathers nothing. By default that wrapper
    overwrites the buffers of all processes by those of the first one before each forward pass;
    ``broadcast_buffers=False`` lets each keep its own. ``update`` is called on what is wrapped.

    Where processes are to train as one does, with one loss over the batch of all of them, each can
    call the method with all of it, and compute a part of the encoder's rows: see
    `sslkern.parallel.spread.SpreadRows`, by which ``python -m sslkern train`` does so.
    """

    encoder: nn.Module

    def update(self, progress: float = 0.0) -> None:
        """Do what follows a step of the optimizer: teachers move towards their students.

        Args:
            progress: Share of the training that is done, from 0 to 1, for schedules.
        """

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer is to have: those that take a gradient."""
        return [p for p in self.parameters() if p.requires_grad]


def check_views(
    views: Sequence[Tensor],
    op: str,
    *,
    norms: Sequence[nn.Module] = (),
    least: int = 1,
    name: str = "view",
) -> None:
    """Reject views of different shapes, and fewer samples than a loss or a batch norm needs.

    Args:
        views: Of one batch, (B, ...) each.
        op: Name of the method.
        norms: Modules that see one view at a time.
        least: Samples that the loss needs.
        name: Of a single view, as the method's argument is called.

    Raises:
        ValueError: If the views differ in shape, or hold fewer samples than the loss, or a batch
            norm in training, needs.
    """
    first = views[0]
    for i, view in enumerate(views[1:], 2):
        if view.shape != first.shape:
            requirement = f"of the shape of view 1, {tuple(first.shape)}"
            refuse(op, f"view {i}", requirement, tuple(view.shape))
    why = ""
    if least < 2 and any(map(normalizes_batches, norms)):
        least, why = 2, ", which batch normalization needs in training"
    if first.dim() == 0 or len(first) < least:
        requirement = f"of at least {least} sample{'s' if least > 1 else ''}{why}"
        name = f"{name} 1" if len(views) > 1 else name
        refuse(op, name, requirement, f"shape {tuple(first.shape)}")


def check_whole(value: int, name: str, op: str) -> None:
    """Reject what is no integer from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"sslkern::{op}: expected {name} to be an integer, got {type(value).__name__}"
        )
    if value < 0:
        refuse(op, name, "not negative", value)


def normalizes_batches(module: nn.Module) -> bool:
    """Whether the module would now normalize by the statistics of its batch."""
    norms = nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, norms) and m.training for m in module.modules())


def encode(encoder: nn.Module, inputs: Tensor, feature_dim: int, op: str) -> Tensor:
    """Features (B, feature_dim) of a batch.

    Raises:
        ValueError: If the encoder returns another shape.
    """
    features: Tensor = encoder(inputs)
    expected = (len(inputs), feature_dim)
    if features.shape != expected:
        refuse(op, "encoder", f"a module that returns the shape {expected}", tuple(features.shape))
    return features


def encode_views(encoder: nn.Module, views: Sequence[Tensor], feature_dim: int, op: str) -> Tensor:
    """Features (V B, feature_dim) of V views as one batch, which batch norms see together."""
    return encode(encoder, torch.cat(list(views)), feature_dim, op)
