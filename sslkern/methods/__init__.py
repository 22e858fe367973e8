"""Self-supervised methods: a loss and the state around it, for an encoder of your own."""

from sslkern.methods.simclr import SimCLR

__all__ = ["SimCLR"]
