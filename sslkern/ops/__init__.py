"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.info_nce import clip_loss, info_nce_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.ops.supcon import dcl_loss, supcon_loss, uniformity

__all__ = ["clip_loss", "dcl_loss", "info_nce_loss", "ntxent_loss", "supcon_loss", "uniformity"]
