"""Negative sampling and noise-contrastive estimation as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.ops._common import check_positive_number
from sslkern.ops.sampled_logits import (
    estimate_log_normalizer,
    negative_sampling_loss,
    sampled_logits,
    sampled_nce_loss,
)


class NegativeSamplingLoss(nn.Module):
    """`sslkern.negative_sampling_loss` as a module; it holds nothing.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.NegativeSamplingLoss()
        >>> centre, table = torch.randn(3, 4), torch.zeros(10, 4)
        >>> value = loss(centre, table, torch.tensor([1, 2, 3]), torch.randint(10, (3, 5)))
        >>> print(f"{value.item():.6f}")
        4.158883

    Equals: `sslkern.reference.negative_sampling_loss`.

    Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, https://arxiv.org/abs/1310.4546
    """

    def forward(self, query: Tensor, table: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean loss over the rows of ``query`` (N, D).

        ``positive`` (N,) and ``negative`` (N, K) name rows of ``table`` (V, D).
        """
        return negative_sampling_loss(query, table, positive, negative)


class SampledNCELoss(nn.Module):
    """`sslkern.sampled_nce_loss` with its temperature, and the normaliser of the first batch.

    log Z is estimated from the first batch in training mode and does not change afterwards. It is
    a buffer: saved with the state, and what is loaded counts as estimated. In evaluation mode
    before any training the batch's own estimate is used and not kept.

    Args:
        temperature: Positive number.
        noise_probability: Probability of each row under the noise that the negatives are drawn
            from, positive; 1 / V of the table by default.
        eps: See `sslkern.sampled_nce_loss`.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.SampledNCELoss(temperature=0.1)
        >>> query = torch.nn.functional.normalize(torch.ones(1, 4))
        >>> memory, negative = torch.zeros(1000, 4), torch.randint(1000, (1, 20))
        >>> value = loss(query, memory, torch.tensor([3]), negative)
        >>> print(f"{loss.log_normalizer.exp().item():.4f}")
        1000.0000

    Equals: `sslkern.reference.sampled_nce_loss`.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, https://arxiv.org/abs/1805.01978
    """

    log_normalizer: Tensor
    """log Z, a 0-d float64 tensor; NaN until it is estimated."""

    def __init__(
        self,
        temperature: float = 0.07,
        noise_probability: float | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive_number(temperature, "temperature", "sampled_logits")
        if noise_probability is not None:
            check_positive_number(noise_probability, "noise_probability", "sampled_logits")
        self.temperature = temperature
        self.noise_probability = noise_probability
        self.eps = eps
        self.register_buffer("log_normalizer", torch.full((), float("nan"), dtype=torch.float64))
        self._estimated = False  # of the buffer; a Python value, so that no graph depends on data
        self.register_load_state_dict_post_hook(_look_at_buffer)  # type: ignore[no-untyped-call]

    def forward(self, query: Tensor, table: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean loss over the rows of ``query`` (N, D).

        ``positive`` (N,) and ``negative`` (N, K) name rows of ``table`` (V, D).
        """
        if self.training and not self._estimated:
            self._estimate(query, table, positive, negative)
        return sampled_nce_loss(
            query,
            table,
            positive,
            negative,
            temperature=self.temperature,
            log_normalizer=self.log_normalizer if self._estimated else None,
            noise_probability=self.noise_probability,
            eps=self.eps,
        )

    @torch.no_grad()
    def _estimate(self, query: Tensor, table: Tensor, positive: Tensor, negative: Tensor) -> None:
        index = torch.cat([positive[:, None], negative], dim=1)
        logits = sampled_logits(query, table, index) / self.temperature
        self.log_normalizer.copy_(estimate_log_normalizer(logits, table.shape[0]))
        self._estimated = True

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"temperature={self.temperature}, noise_probability={self.noise_probability}, "
            f"eps={self.eps}"
        )


def _look_at_buffer(module: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(module, SampledNCELoss)
    module._estimated = not bool(module.log_normalizer.isnan())
