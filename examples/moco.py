"""MoCo v2 on handwritten digits in plain PyTorch: a momentum encoder and a queue.

python examples/moco.py
"""

import digits
import torch

from sslkern.methods import MoCo


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    encoder = digits.encoder()
    print(f"before: accuracy {digits.score(encoder, images, labels):.3f}")

    # Of small data: the paper's queue of 65536 keys and momentum 0.999 are for millions of images.
    model = MoCo(
        encoder,
        digits.FEATURES,
        projection_dim=64,
        queue_size=1024,
        momentum=0.99,
        key_parts=4,
    )
    optimizer = torch.optim.AdamW(model.trainable(), lr=1e-3)
    for epoch in range(given.epochs):
        for index in digits.batches(images, 64):
            loss = model(digits.view(images[index]), digits.view(images[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update()  # the momentum encoder follows
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {digits.score(encoder, images, labels):.3f}")


if __name__ == "__main__":
    main()
