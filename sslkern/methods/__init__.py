"""Self-supervised methods around the user's encoder, and the state that they share."""

from sslkern.methods.queue import Queue
from sslkern.methods.simclr import SimCLR
from sslkern.methods.unigram import UnigramSampler
from sslkern.ops.tico import TiCoState

__all__ = ["Queue", "SimCLR", "TiCoState", "UnigramSampler"]
