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


def check_views(views: Sequence[Tensor], op: str, *, norms: Sequence[nn.Module] = ()) -> None:
    """Reject views of different shapes, and single samples where ``norms`` hold a batch norm.

    Args:
        views: Of one batch, (B, ...) each.
        op: Name of the method.
        norms: Modules that see one view at a time.

    Raises:
        ValueError: If the views differ in shape, hold nothing, or one sample where a batch norm in
            training needs two.
    """
    first = views[0]
    for i, view in enumerate(views[1:], 2):
        if view.shape != first.shape:
            requirement = f"of the shape of view 1, {tuple(first.shape)}"
            refuse(op, f"view {i}", requirement, tuple(view.shape))
    least = 2 if any(map(normalizes_batches, norms)) else 1
    if first.dim() == 0 or len(first) < least:
        why = ", which batch normalization needs in training" if least == 2 else ""
        refuse(op, "view 1", f"of at least {least} samples{why}", f"shape {tuple(first.shape)}")


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
