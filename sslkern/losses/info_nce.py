"""InfoNCE and the loss of CLIP as modules."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from sslkern.losses._open_clip import check_processes, clip_of_processes
from sslkern.losses._sharing import SharedLoss
from sslkern.ops._common import check_positive_number
from sslkern.ops.info_nce import info_nce_loss


class InfoNCELoss(SharedLoss):
    """`sslkern.info_nce_loss` with its temperature held.

    Args:
        temperature: Positive number.
        symmetric: Also take the keys as queries, and the mean of both directions. Not together
            with negatives.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.info_nce_loss`.
        process_group: The ranks; by default all.
        strategy: ``"gather"`` or ``"ring"``.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.InfoNCELoss(temperature=0.5)
        >>> print(f"{loss(torch.eye(2), torch.eye(2)).item():.6f}")
        0.126928

    Equals: `sslkern.reference.info_nce_loss`.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
    2018, https://arxiv.org/abs/1807.03748; with negatives from a queue: He et al., "Momentum
    Contrast for Unsupervised Visual Representation Learning", 2019,
    https://arxiv.org/abs/1911.05722
    """

    def __init__(
        self,
        temperature: float = 0.1,
        symmetric: bool = False,
        *,
        gather_distributed: bool = False,
        process_group: dist.ProcessGroup | None = None,
        strategy: str = "gather",
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check, strategy)
        check_positive_number(temperature, "temperature", "info_nce")
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Mean loss over the rows of ``query`` (N, D).

        Row i of ``key`` (N, D) is the positive of row i. The negatives are the other keys or, where
        given, the rows of ``negatives`` (K, D) alone.
        """
        return info_nce_loss(
            query,
            key,
            negatives,
            temperature=self.temperature,
            symmetric=self.symmetric,
            **self.sharing,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"temperature={self.temperature}, symmetric={self.symmetric}"


class ClipLoss(nn.Module):
    """`sslkern.clip_loss` behind the constructor and the call of open_clip's ``ClipLoss``.

    Args:
        local_loss: In several processes, return the mean over this process's images and texts in
            place of that of all, which it is on average over the processes; the gradients that
            parameters get are the same. Where processes have other numbers of pairs, the sum over
            the pairs divided by the mean of these numbers.
        gather_with_grad: Has to be True in several processes: without it open_clip loses the
            gradient that features get from the other processes.
        cache_labels: Without effect: no labels are made, the positives are the diagonal.
        rank: Index of this process, as in torch.distributed.
        world_size: Number of processes, as in torch.distributed.

    Raises:
        ValueError: When called, if torch.distributed has other processes.
        NotImplementedError: For several processes without ``gather_with_grad``.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.ClipLoss()
        >>> print(f"{loss(torch.eye(2), torch.eye(2), torch.tensor(2.0)).item():.6f}")
        0.126928

    Equals: `sslkern.reference.clip_loss`; ``open_clip.ClipLoss``.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", 2021, https://arxiv.org/abs/2103.00020
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        if world_size > 1 and not gather_with_grad:
            raise NotImplementedError(
                f"sslkern::info_nce: expected gather_with_grad to be True in several processes, "
                f"got {gather_with_grad} in {world_size}. Gradients go to the features of all."
            )
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Mean loss of both directions; the features (N, D) have unit norm already.

        ``logit_scale`` is the factor itself, not its logarithm. With ``output_dict`` the loss comes
        as ``{"contrastive_loss": loss}``.
        """
        check_processes("info_nce", self.rank, self.world_size)
        loss = clip_of_processes(
            image_features,
            text_features,
            logit_scale,
            logit_bias,
            world_size=self.world_size,
            local_loss=self.local_loss,
        )
        return {"contrastive_loss": loss} if output_dict else loss
