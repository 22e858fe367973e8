"""BYOL on handwritten digits in plain PyTorch: a predictor and a teacher, no negatives.

python examples/byol.py
"""

import digits
import torch

from sslkern.methods import BYOL


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    encoder = digits.encoder()
    print(f"before: accuracy {digits.score(encoder, images, labels):.3f}")

    # The paper's momentum 0.996 is for a thousand epochs.
    model = BYOL(encoder, digits.FEATURES, hidden_dim=256, projection_dim=64, momentum=0.97)
    optimizer = torch.optim.AdamW(model.trainable(), lr=1e-3)
    for epoch in range(given.epochs):
        for step, index in enumerate(order := digits.batches(images, 64)):
            loss = model(digits.view(images[index]), digits.view(images[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update((epoch + (step + 1) / len(order)) / given.epochs)  # the teacher follows
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {digits.score(encoder, images, labels):.3f}")


if __name__ == "__main__":
    main()
