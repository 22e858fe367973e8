"""Training on real data: loop, checkpoints, probes and plots of ``python -m sslkern train``."""

from sslkern.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sslkern.train.config import ConfigError, TrainConfig
from sslkern.train.engine import Trainer, TrainingError, fit

__all__ = [
    "CheckpointError",
    "ConfigError",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
]
