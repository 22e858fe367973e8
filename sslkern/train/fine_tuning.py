"""A classifier that a few labels make of a pretrained network: a teacher to distill from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.data import LabelledImages
from sslkern.data.augment import random_view
from sslkern.methods import SimCLRv2
from sslkern.train.encoder import image_encoder
from sslkern.train.images import two_views
from sslkern.train.probe import FEW_LABELS

PRETRAINING_EPOCHS, FINE_TUNING_STEPS = 5, 40
BATCH, LR, TRUNK_DIM = 128, 3e-3, 128


def teacher(samples: LabelledImages) -> nn.Sequential:
    """A SimCLR v2, pretrained on all images and fine-tuned on the first 100 with their labels.

    Its random numbers are from torch's global generator.

    Returns:
        Images -> scores of the classes.
    """
    samples = samples.to(torch.float32)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    trunk = pretrained(samples, generator)
    classifier = nn.Sequential(trunk, nn.Linear(TRUNK_DIM, len(samples.classes)))
    fine_tune(classifier, samples.take(torch.arange(min(FEW_LABELS, len(samples)))), generator)
    return classifier


def pretrained(samples: LabelledImages, generator: torch.Generator) -> nn.Sequential:
    """The encoder and the first layer of the head after a few epochs of SimCLR v2."""
    encoder = image_encoder(samples)
    model = SimCLRv2(encoder, encoder.feature_dim, hidden_dim=TRUNK_DIM, projection_dim=64)
    optimizer = torch.optim.AdamW(model.trainable(), LR)
    for _ in range(PRETRAINING_EPOCHS):
        order = torch.randperm(len(samples), generator=generator)
        for index in torch.split(order, BATCH):
            loss = model(*two_views(samples, index, generator))
            step(optimizer, loss)
    return model.trunk()


def fine_tune(classifier: nn.Module, samples: LabelledImages, generator: torch.Generator) -> None:
    """Train all of it with labels."""
    optimizer = torch.optim.AdamW(classifier.parameters(), LR)
    for _ in range(FINE_TUNING_STEPS):
        logits = classifier(random_view(samples.images, generator))
        step(optimizer, F.cross_entropy(logits, samples.labels))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Follow the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
