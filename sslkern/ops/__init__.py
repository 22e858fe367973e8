"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.info_nce import clip_loss, info_nce_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.ops.siglip import siglip_loss

__all__ = ["clip_loss", "info_nce_loss", "ntxent_loss", "siglip_loss"]
