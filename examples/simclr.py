"""SimCLR on handwritten digits in plain PyTorch.

python examples/simclr.py
"""

import digits
import torch

from sslkern.methods import SimCLR


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    encoder = digits.encoder()
    print(f"before: accuracy {digits.score(encoder, images, labels):.3f}")

    model = SimCLR(encoder, digits.FEATURES, projection_dim=64, temperature=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(given.epochs):
        for index in digits.batches(images):
            loss = model(digits.view(images[index]), digits.view(images[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {digits.score(encoder, images, labels):.3f}")


if __name__ == "__main__":
    main()
