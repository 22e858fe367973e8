"""SigLIP as a module."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.losses._open_clip import check_processes, siglip_of_processes


class SigLipLoss(nn.Module):
    """`sslkern.siglip_loss` behind the constructor and the call of open_clip's ``SigLipLoss``.

    Args:
        cache_labels: Without effect: no labels are made, the positives are the diagonal.
        rank: Index of this process, as in torch.distributed.
        world_size: Number of processes, as in torch.distributed. With several the loss is that of
            this process's images and the texts of all: on average over the processes, the loss of
            the whole batch.
        dist_impl: How open_clip exchanges the texts, whose value does not depend on it: here they
            are gathered for ``"gather"`` and ``"reduce"``, and travel around a ring otherwise.

    Raises:
        ValueError: When called, if torch.distributed has other processes.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.SigLipLoss()
        >>> print(f"{loss(torch.eye(2), torch.eye(2), torch.tensor(10.0), -10.0).item():.6f}")
        0.693193

    Equals: `sslkern.reference.siglip_loss`; ``open_clip.SigLipLoss``.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
    https://arxiv.org/abs/2303.15343
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
    ) -> None:
        super().__init__()
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Sum over all pairs divided by N; the features (N, D) have unit norm already.

        ``logit_scale`` is the factor itself, not its logarithm. With ``output_dict`` the loss comes
        as ``{"contrastive_loss": loss}``.
        """
        check_processes("siglip", self.rank, self.world_size)
        loss = siglip_of_processes(
            image_features,
            text_features,
            logit_scale,
            logit_bias,
            world_size=self.world_size,
            dist_impl=self.dist_impl,
        )
        return {"contrastive_loss": loss} if output_dict else loss
