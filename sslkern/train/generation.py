"""What recipes of methods that make images share: batches without augmentation, and measures."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.data import LabelledImages
from sslkern.train.images import probe_pixels
from sslkern.train.recipe import Measures


def plain_images(
    samples: LabelledImages, index: Tensor, generator: torch.Generator
) -> tuple[Tensor]:
    """The images of a batch as they are."""
    return (samples.images[index],)


def explained(made: Tensor, images: Tensor) -> float:
    """Share of the variance of images (N, ...) that others in their place explain.

    It is 1 for the same images, 0 for the mean image in place of each, and also for worse ones.
    """
    rest = (made - images).square().sum() / (images - images.mean(0)).square().sum()
    return max(0.0, 1.0 - float(rest))


def probe_pixels_and_mean(
    train: LabelledImages, test: LabelledImages, generator: torch.Generator
) -> Measures:
    """Probes of the pixels, and what the mean image explains: nothing."""
    return probe_pixels(train, test, generator) | {"explained": 0.0}


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Distance of the Gaussians with the means and covariances of two sets of images.

    .. math:: \lVert \mu_x - \mu_y \rVert^2
              + \mathrm{tr}\bigl(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2}\bigr)

    It is 0 for equal moments, and low only where both the mean and the variety are right.

    Args:
        x: (N, ...) with N > 1; pixels, where the distance that goes by the name takes features.
        y: (M, ...) with M > 1.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", 2017, https://arxiv.org/abs/1706.08500
    """
    x, y = x.double().flatten(1), y.double().flatten(1)
    shift = (x.mean(0) - y.mean(0)).square().sum()
    a, b = torch.cov(x.T), torch.cov(y.T)
    # The product has the eigenvalues of a symmetric matrix, none of them negative.
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return float(shift + a.trace() + b.trace() - 2 * common)
