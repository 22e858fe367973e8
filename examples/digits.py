"""What the examples on images share: data, random views, an encoder, a probe, arguments."""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

FEATURES = 512


def arguments(description: str, epochs: int = 30) -> argparse.Namespace:
    """``--epochs``, and a seed that is set."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    return given


def load() -> tuple[Tensor, Tensor]:
    """1797 images (N, 1, 8, 8) in [0, 1] and their digits (N,), in random order."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    return images[order], torch.from_numpy(labels)[order]


def view(images: Tensor, size: int = 8) -> Tensor:
    """A random view of every image: turned, sheared, scaled, shifted, noisy."""
    theta = torch.eye(2).repeat(len(images), 1, 1) + 0.5 * (torch.rand(len(images), 2, 2) - 0.5)
    shift = 0.5 * (torch.rand(len(images), 2, 1) - 0.5)
    shape = (*images.shape[:2], size, size)
    grid = nn.functional.affine_grid(torch.cat([theta, shift], 2), shape, align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return (moved + 0.1 * torch.randn_like(moved)).clamp(0, 1)


def batches(images: Tensor, size: int = 256) -> tuple[Tensor, ...]:
    """Indices of the whole batches of one epoch, in random order."""
    return torch.randperm(len(images))[: len(images) // size * size].split(size)


def encoder() -> nn.Sequential:
    """Images (B, 1, 8, 8) -> features (B, 512)."""
    layers: list[nn.Module] = []
    for channels, out, stride in ((1, 32, 1), (32, 64, 2), (64, 128, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten())


def score(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy of a linear classifier that has the labels of 100 images."""
    model.eval()
    with torch.no_grad():
        features = nn.functional.normalize(model(images)).numpy() * 10
    model.train()
    probe = LogisticRegression(max_iter=5000).fit(features[:100], labels[:100])
    return float(probe.score(features[100:], labels[100:]))
