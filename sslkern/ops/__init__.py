"""The operators: one file each with the public function, its shapes and its gradient."""

from sslkern.ops.ntxent import ntxent_loss

__all__ = ["ntxent_loss"]
