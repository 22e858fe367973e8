"""English text that comes with Python, as rows of words; and vocabularies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from sslkern.data.samples import Samples

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))

# Letters, digits, or one symbol: so that __init__ is five words, of which one is worth learning.
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
# Underlines of headings, borders of tables.
_RULE = re.compile(r"([-=*~^#+])\1{2,}")
# Shorter paragraphs may well be said twice ("For example:").
_LONG_PARAGRAPH = 40


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and single symbols.

    Example:
        >>> split_words("Use x[10], please.")
        ['use', 'x', '[', '10', ']', ',', 'please', '.']
    """
    return _WORD.findall(text.lower())


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and their numbers; the first five are `SPECIALS`: PAD, UNK, CLS, SEP, MASK = 0 to 4.

    A word is what the texts are sequences of: it may be one character, and then a string is a text.

    Attributes:
        words: Word of each of the V numbers.
        counts: (V,) int64, how often each is in the text that the vocabulary was made from; that of
            UNK is the number of words that were left out.

    Example:
        >>> letters = Vocabulary.of("hello")
        >>> letters.words[5:], letters.encode("help")
        (('l', 'e', 'h', 'o'), tensor([7, 6, 5, 1]))
    """

    words: tuple[str, ...]
    counts: Tensor

    @classmethod
    def of(cls, words: Iterable[str], size: int | None = None) -> Self:
        """Take the most frequent words, specials included at most ``size``; all if None."""
        counted = Counter(words)
        # Words as frequent as each other by name, so that the order of the text does not matter.
        order = sorted(counted, key=lambda word: (-counted[word], word))
        kept = order if size is None else order[: max(0, size - len(SPECIALS))]
        counts = [0] * len(SPECIALS) + [counted[word] for word in kept]
        counts[UNK] = counted.total() - sum(counts)
        return cls((*SPECIALS, *kept), torch.tensor(counts))

    def __len__(self) -> int:
        """V."""
        return len(self.words)

    def encode(self, words: Iterable[str]) -> Tensor:
        """Number of every word, (L,) int64; UNK for those that are not in the vocabulary."""
        return torch.tensor([self._numbers.get(word, UNK) for word in words], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> list[str]:
        """Word of every number of (L,) int64, without padding."""
        return [self.words[token] for token in tokens.tolist() if token != PAD]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def padded(rows: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Rows (L_i,) int64 as one (N, L), PAD after the end; L is that of the longest, or longer.

    Example:
        >>> padded([torch.tensor([5, 6]), torch.tensor([7])], length=3)
        tensor([[5, 6, 0],
                [7, 0, 0]])
    """
    longest = max(max(map(len, rows)), length or 0)
    tokens = torch.full((len(rows), longest), PAD)
    for row, values in zip(tokens, rows, strict=True):
        row[: len(values)] = values
    return tokens


@dataclass(frozen=True)
class Text(Samples):
    """Consecutive pieces of documents.

    Attributes:
        tokens: (N, L) int64, without padding or other specials than UNK.
        document: (N,) int64, which document a row is a piece of.
        position: (N,) int64, the row's place in its document, from 0 on.
        vocabulary: What the numbers mean.
    """

    tokens: Tensor
    document: Tensor
    position: Tensor
    vocabulary: Vocabulary

    def consecutive(self) -> Tensor:
        """Pairs (M, 2) int64 of rows of which the second goes on where the first ends.

        Also after `take` and `split_half`, with the rows that are left.

        Example:
            >>> load_text().take(torch.tensor([1, 5, 0, 2])).consecutive()
            tensor([[2, 0],
                    [0, 3]])
        """
        place = self.document * (int(self.position.max()) + 2) + self.position
        order = place.argsort(stable=True)
        follows = place[order].diff() == 1
        return torch.stack([order[:-1][follows], order[1:][follows]], 1)


def load_text(length: int = 32, words: int = 2000) -> Text:
    """Load the language reference that Python's ``help()`` shows, a document per topic.

    Paragraphs that an earlier topic has already, and what is left over at the end of a topic, are
    left out. The text is that of the running Python version: another version has other rows.

    Args:
        length: L, words per row.
        words: Size of the vocabulary, specials included; the most frequent words.

    Example:
        >>> text = load_text()
        >>> text.vocabulary.decode(text.tokens[0])[:6]
        ['the', '"', 'assert', '"', 'statement', 'assert']

    Source: `pydoc_data.topics` of the standard library, https://docs.python.org/3/reference/.
    """
    documents = [split_words(document) for document in _documents()]
    whole = [found[: len(found) // length * length] for found in documents]
    vocabulary = Vocabulary.of((word for found in whole for word in found), words)
    tokens = vocabulary.encode(word for found in whole for word in found).view(-1, length)
    rows = [len(found) // length for found in whole]
    document = torch.arange(len(rows)).repeat_interleave(torch.tensor(rows))
    position = torch.cat([torch.arange(count) for count in rows])
    return Text(tokens, document, position, vocabulary)


def _documents() -> list[str]:
    from pydoc_data.topics import topics

    seen: set[str] = set()
    documents = []
    for name in sorted(topics):
        paragraphs = topics[name].split("\n\n")
        new = [x for x in paragraphs if len(x) < _LONG_PARAGRAPH or x not in seen]
        seen.update(paragraphs)
        documents.append(_RULE.sub(" ", "\n\n".join(new)))
    return documents
