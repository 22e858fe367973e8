"""Digits with captions, letter by letter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkern.data.digits import load_digits
from sslkern.data.samples import Samples
from sslkern.data.text import Vocabulary, padded

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("{}", "a {}", "the digit {}", "number {}", "a handwritten {}", "this is a {}")


@dataclass(frozen=True)
class Pairs(Samples):
    """Images and a caption of each.

    Attributes:
        images: (N, 1, 8, 8) floating, in [0, 1].
        tokens: (N, L) int64, the characters of the caption, padded at the end.
        labels: (N,) int64, the digit.
        vocabulary: Of characters, so that it encodes and decodes strings.
        classes: Name of each digit.
    """

    images: Tensor
    tokens: Tensor
    labels: Tensor
    vocabulary: Vocabulary
    classes: tuple[str, ...]

    def captions(self, template: str = "a {}") -> Tensor:
        """One caption per class, (10, L) int64, as zero-shot classification wants them.

        Example:
            >>> pairs = load_pairs()
            >>> "".join(pairs.vocabulary.decode(pairs.captions()[7]))
            'a seven'
        """
        rows = [self.vocabulary.encode(template.format(name)) for name in self.classes]
        return padded(rows, self.tokens.shape[1])


def load_pairs(seed: int = 0) -> Pairs:
    """Load the 1797 digits of `load_digits`, with one of six captions each.

    Args:
        seed: Decides which of `TEMPLATES` an image's caption is made by.

    Returns:
        images float32.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> pairs = load_pairs()
        >>> pairs.images.shape, pairs.tokens.shape, len(pairs.vocabulary)
        (torch.Size([1797, 1, 8, 8]), torch.Size([1797, 19]), 25)
    """
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    draws = torch.randint(len(TEMPLATES), (len(digits),), generator=generator).tolist()
    captions = [
        TEMPLATES[draw].format(NAMES[label])
        for draw, label in zip(draws, digits.labels.tolist(), strict=True)
    ]
    vocabulary = Vocabulary.of(letter for caption in captions for letter in caption)
    tokens = padded([vocabulary.encode(caption) for caption in captions])
    return Pairs(digits.images, tokens, digits.labels, vocabulary, NAMES)
