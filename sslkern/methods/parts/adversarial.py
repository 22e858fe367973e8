"""A generator and a discriminator in one loss, each of whose terms reaches one of them only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scores_of_frozen(discriminator: nn.Module, samples: Tensor) -> Tensor:
    """Scores of samples, with a gradient for the samples and none for the discriminator."""
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    scores: Tensor = torch.func.functional_call(discriminator, frozen, (samples,))
    return scores


def generator_loss(scores: Tensor) -> Tensor:
    """The mean of -log D over generated samples of these scores: not saturated where D is 0."""
    return F.softplus(-scores).mean()


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """The means of -log D over real samples and of -log(1 - D) over generated ones, summed."""
    return F.softplus(-real).mean() + F.softplus(generated).mean()
