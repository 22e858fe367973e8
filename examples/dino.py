"""DINO on handwritten digits in plain PyTorch: a centered, sharpened teacher.

python examples/dino.py
"""

import digits
import torch

from sslkern.methods import DINO


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    encoder = digits.encoder()
    print(f"before: accuracy {digits.score(encoder, images, labels):.3f}")

    # The paper's 65536 scores and momentum 0.996 are for millions of images.
    model = DINO(
        encoder,
        digits.FEATURES,
        out_dim=256,
        hidden_dim=256,
        bottleneck_dim=64,
        head_norm="batch",
        freeze_iterations=28,
        momentum=0.97,
    )
    optimizer = torch.optim.AdamW(model.trainable(), lr=3e-3)
    for epoch in range(given.epochs):
        for step, index in enumerate(order := digits.batches(images, 64)):
            large = [digits.view(images[index]) for _ in range(2)]
            small = [digits.view(images[index], size=6) for _ in range(4)]
            loss = model(*large, *small)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update((epoch + (step + 1) / len(order)) / given.epochs)  # the teacher follows
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {digits.score(encoder, images, labels):.3f}")


if __name__ == "__main__":
    main()
