"""Draws from the noise of word2vec: rows in proportion to a power of their counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.ops._embeddings import check_not_negative


class UnigramSampler:
    r"""Draws rows, with replacement, with probability :math:`c_v^a / \sum_w c_w^a`.

    Args:
        counts: How often each row occurs, (V,), not negative; on the device that is to draw.
        power: Exponent a; 0.75 in word2vec, 0 for a uniform draw of the rows that occur.

    Raises:
        ValueError: If the counts are no vector of finite numbers that are not negative, with at
            least one positive, or the power is negative or not finite.

    Example:
        >>> import torch
        >>> from sslkern.methods import UnigramSampler
        >>> sampler = UnigramSampler(torch.tensor([16, 0, 1]))
        >>> [round(p, 6) for p in sampler.probability.tolist()]
        [0.888889, 0.0, 0.111111]
        >>> sampler.sample((4, 5), torch.Generator().manual_seed(0)).shape
        torch.Size([4, 5])

    Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, https://arxiv.org/abs/1310.4546
    """

    probability: Tensor
    """Of each row, (V,) float64; what `sslkern.sampled_nce_loss` calls ``noise_probability``."""

    def __init__(self, counts: Tensor, power: float = 0.75) -> None:
        if counts.dim() != 1 or counts.numel() == 0:
            raise ValueError(
                "sslkern::UnigramSampler: expected counts to be of shape (V,) with V > 0, "
                f"got shape {tuple(counts.shape)}"
            )
        check_not_negative(power, "power", "UnigramSampler")
        counts = counts.double()
        good = bool(((counts >= 0) & counts.isfinite()).all()) and bool((counts > 0).any())
        if not good:
            raise ValueError(
                "sslkern::UnigramSampler: expected counts to be finite, not negative and not all "
                f"zero, got values from {counts.min().item():g} to {counts.max().item():g}"
            )
        # Relative to the largest, so that no power overflows; a row that never occurs keeps 0.
        mass = (counts / counts.max()).pow(power).masked_fill(counts == 0, 0.0)
        self.probability = mass / mass.sum()
        self._cumulative = mass.cumsum(0)

    def sample(
        self, shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw rows.

        Args:
            shape: Of the result, for example (N, K).
            generator: Source of the randomness, on the device of the counts.

        Returns:
            Rows in [0, V), int64, of this shape.
        """
        total = self._cumulative[-1]
        # torch 2.13 compiles no draw whose generator is given, be it None, for shapes that change.
        source: dict[str, Any] = {} if generator is None else {"generator": generator}
        place = torch.rand(shape, dtype=torch.float64, device=total.device, **source).mul_(total)
        # Below the total even after rounding, because rand gives at most 1 - 2^-53.
        return torch.searchsorted(self._cumulative, place, right=True)
