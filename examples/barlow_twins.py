"""Barlow Twins on handwritten digits in plain PyTorch: features that agree and are not redundant.

python examples/barlow_twins.py
"""

import digits
import torch

from sslkern.methods import BarlowTwins


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    encoder = digits.encoder()
    print(f"before: accuracy {digits.score(encoder, images, labels):.3f}")

    model = BarlowTwins(encoder, digits.FEATURES, projection_dim=256)
    optimizer = torch.optim.AdamW(model.trainable(), lr=3e-3)
    for epoch in range(given.epochs):
        for step, index in enumerate(order := digits.batches(images, 128)):
            loss = model(digits.view(images[index]), digits.view(images[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update((epoch + (step + 1) / len(order)) / given.epochs)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {digits.score(encoder, images, labels):.3f}")


if __name__ == "__main__":
    main()
