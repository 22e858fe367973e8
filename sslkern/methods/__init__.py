"""Self-supervised methods around the user's encoder, and the state that they share."""

from sslkern.methods.prototypes import Prototypes
from sslkern.methods.queue import Queue
from sslkern.methods.simclr import SimCLR
from sslkern.methods.unigram import UnigramSampler
from sslkern.ops.tico import TiCoState

__all__ = ["Prototypes", "Queue", "SimCLR", "TiCoState", "UnigramSampler"]
