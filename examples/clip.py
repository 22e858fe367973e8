"""CLIP on handwritten digits and their names in plain PyTorch: classification without labels.

python examples/clip.py
"""

import digits
import torch
from torch import Tensor

from sslkern.methods import CLIP

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("{}", "a {}", "the digit {}", "a handwritten {}", "number {}")


def texts(captions: list[str], length: int = 20) -> Tensor:
    """Captions as bytes, (N, length) int64, padded with zeros."""
    return torch.tensor([list(text.encode().ljust(length, b"\0")) for text in captions])


def captions(labels: Tensor) -> list[str]:
    """A caption for each image, in one of several wordings."""
    wordings = torch.randint(len(CAPTIONS), (len(labels),))
    return [CAPTIONS[w].format(NAMES[n]) for w, n in zip(wordings, labels, strict=True)]


def accuracy(model: CLIP, images: Tensor, labels: Tensor) -> float:
    """How often the name that is most similar to an image is the right one."""
    model.eval()
    with torch.no_grad():
        names = model.embed_texts(texts([f"a {name}" for name in NAMES]))
        found = (model.embed_images(images) @ names.T).argmax(1)
    model.train()
    return (found == labels).float().mean().item()


def main() -> None:
    """Train on half of the pairs, then name the images of the other half."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    half = len(images) // 2
    text_encoder = torch.nn.Sequential(
        torch.nn.Embedding(128, 32), torch.nn.Flatten(), torch.nn.Linear(20 * 32, 64)
    )
    model = CLIP(digits.encoder(), text_encoder, digits.FEATURES, 64, projection_dim=64)
    print(f"before: accuracy {accuracy(model, images[half:], labels[half:]):.3f}")

    optimizer = torch.optim.AdamW(model.trainable(), lr=1e-3)
    for epoch in range(given.epochs):
        for index in digits.batches(images[:half], 128):
            loss = model(digits.view(images[index]), texts(captions(labels[index])))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update()  # keeps the scale of the logits in its bounds
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: accuracy {accuracy(model, images[half:], labels[half:]):.3f}")


if __name__ == "__main__":
    main()
