"""Negative sampling and noise-contrastive estimation as modules."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.sampled_logits import negative_sampling_loss, sampled_nce
from sslkern.parallel.processes import Sharing


class NegativeSamplingLoss(SharedLoss):
    """`sslkern.negative_sampling_loss` as a module.

    Args:
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

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

    def __init__(
        self,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)

    def forward(self, query: Tensor, table: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean loss over the rows of ``query`` (N, D).

        ``positive`` (N,) and ``negative`` (N, K) name rows of ``table`` (V, D).
        """
        return negative_sampling_loss(query, table, positive, negative, **self.sharing)


class SampledNCELoss(SharedLoss):
    """`sslkern.sampled_nce_loss` with its temperature, and the normaliser of the first batch.

    log Z is estimated from the first batch in training mode and does not change afterwards. It is
    a buffer: saved with the state, and what is loaded counts as estimated. In evaluation mode
    before any training the batch's own estimate is used and not kept.

    Args:
        temperature: Positive number.
        noise_probability: Probability of each row under the noise that the negatives are drawn
            from, positive; 1 / V of the table by default.
        eps: See `sslkern.sampled_nce_loss`.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.parallel`.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments.

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
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check)
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
        loss, log_z = sampled_nce(
            query,
            table,
            positive,
            negative,
            temperature=self.temperature,
            log_normalizer=self.log_normalizer if self._estimated else None,
            noise_probability=self.noise_probability,
            eps=self.eps,
            weight=None,
            reduction="mean",
            sharing=Sharing(**self.sharing),
        )
        if self.training and not self._estimated:
            with torch.no_grad():
                self.log_normalizer.copy_(log_z)
            self._estimated = True
        return loss

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return (
            f"temperature={self.temperature}, noise_probability={self.noise_probability}, "
            f"eps={self.eps}"
        )


def _look_at_buffer(module: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(module, SampledNCELoss)
    module._estimated = not bool(module.log_normalizer.isnan())
