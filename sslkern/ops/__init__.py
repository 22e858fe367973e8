"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.info_nce import clip_loss, info_nce_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.ops.ressl import ressl_loss
from sslkern.ops.soft_cross_entropy import soft_cross_entropy

__all__ = ["clip_loss", "info_nce_loss", "ntxent_loss", "ressl_loss", "soft_cross_entropy"]
