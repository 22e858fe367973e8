"""MICLe: two images of one case attract each other, as two views of one image do in SimCLR."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkern.methods.simclr import SimCLR
from sslkern.ops._common import refuse


class MICLe(SimCLR):
    r"""Multi-instance contrastive learning.

    .. math:: \ell = \mathrm{NTXent}(z, z'; \tau), \quad
              z = g(f(t(x))), \quad z' = g(f(t'(x')))

    with random views t(x) and t'(x') of two images x and x' that show the same case: of a patient,
    from two angles, or in two lights. A case with one image gives two views of that. Encoder, head
    and loss are those of `SimCLR`, from whose training the paper starts; what is new is which pairs
    are formed, which `draw_partners` does. Each case is in a batch once: two of its images in two
    pairs would repel each other.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        projection_dim: Width of the projections.
        temperature: tau.
        loss: Called as ``loss(z_a, z_b, temperature)``; the fused NT-Xent if not given.

    Raises:
        ValueError: If a width or the temperature is not positive.

    Example:
        >>> import torch
        >>> from sslkern.methods import MICLe, draw_partners
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = MICLe(encoder, feature_dim=32)
        >>> images, cases = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 0, 2, 2, 2])
        >>> index = torch.tensor([0, 1, 4])
        >>> partners = draw_partners(cases, index, torch.Generator().manual_seed(0))
        >>> cases[partners].tolist()
        [0, 1, 2]
        >>> model(images[index], images[partners]).backward()

    Source: Azizi et al., "Big Self-Supervised Models Advance Medical Image Classification", 2021,
    https://arxiv.org/abs/2101.05224 (section 3.2)
    """

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of a batch of cases.

        Args:
            view_a: (B, ...); a view of one image of each case.
            view_b: Same shape; a view of another image of the same cases in the same order.

        Returns:
            Scalar, the mean over the 2B images.

        Raises:
            ValueError: If the views differ in shape, or the encoder returns something else than
                (2B, feature_dim) for them.
        """
        return super().forward(view_a, view_b)


def draw_partners(cases: Tensor, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each of some images another one of its case, itself where there is no other.

    Args:
        cases: Case of each of N images, (N,) int64.
        index: Images (B,) int64 in [0, N).
        generator: Source of the draw, which is uniform.

    Returns:
        Images (B,) int64.

    Raises:
        ValueError: If the cases or the images are no vector.
    """
    for name, value in (("cases", cases), ("index", index)):
        if value.dim() != 1:
            refuse("MICLe", name, "a vector", f"shape {tuple(value.shape)}")
    order = cases.argsort(stable=True)  # images of a case are side by side
    ordered = cases[order]
    place = order.argsort()[index]
    first = torch.searchsorted(ordered, cases[index])
    count = torch.searchsorted(ordered, cases[index], right=True) - first
    draw = torch.rand(len(index), generator=generator, device=index.device)
    step = 1 + (draw * (count - 1)).long()  # from 1 to count - 1: past the image itself, around
    return order[first + (place - first + step) % count]
