"""Short texts in two languages, written by the tables that come with Babel."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sslkern.data.samples import Samples
from sslkern.data.text import Vocabulary, padded, split_words

_FIRST_DAY, _DAYS = datetime.date(1990, 1, 1), 365 * 40
_STYLES = ("medium", "long", "full")


@dataclass(frozen=True)
class Bitext(Samples):
    """Texts and their translations.

    Attributes:
        source: (N, L) int64, padded at the end.
        target: (N, L) int64, padded at the end; row i says what row i of the source says.
        vocabulary: What the numbers of both mean.
        languages: Of the source and of the target.
    """

    source: Tensor
    target: Tensor
    vocabulary: Vocabulary
    languages: tuple[str, str]


def load_bitext(
    pairs: int = 4000, languages: tuple[str, str] = ("en", "de"), seed: int = 0
) -> Bitext:
    """Write a territory and a date in each of two languages.

    The date is in Babel's medium, long or full style, the same one in both languages. No two pairs
    have the same date, and a territory comes back every 295 pairs or so, with another date.

    Args:
        pairs: N, at most 14600.
        languages: Two that Babel knows.
        seed: Decides which territory goes with which date and style.

    Raises:
        ImportError: If Babel is not installed.

    Example:
        >>> bitext = load_bitext()
        >>> for tokens in (bitext.source[0], bitext.target[0]):
        ...     print(*bitext.vocabulary.decode(tokens))
        togo , december 14 , 2016
        togo , 14 . dezember 2016

    Source: the Unicode CLDR, https://cldr.unicode.org, as packed in Babel; another version of Babel
    may write otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    source, target = zip(*_written(pairs, languages, generator), strict=True)
    vocabulary = Vocabulary.of(word for words in source + target for word in words)
    rows = [vocabulary.encode(words) for words in source + target]
    tokens = padded(rows).view(2, pairs, -1)
    return Bitext(tokens[0], tokens[1], vocabulary, languages)


def _written(
    pairs: int, languages: tuple[str, str], generator: torch.Generator
) -> Iterator[tuple[list[str], ...]]:
    from babel import Locale
    from babel.dates import format_date

    names = [Locale.parse(language).territories for language in languages]
    codes = sorted(set(names[0]) & set(names[1]))
    days = torch.randperm(_DAYS, generator=generator)[:pairs].tolist()
    draws = torch.randint(len(codes) * len(_STYLES), (pairs,), generator=generator).tolist()
    for day, draw in zip(days, draws, strict=True):
        code, style = codes[draw // len(_STYLES)], _STYLES[draw % len(_STYLES)]
        date = _FIRST_DAY + datetime.timedelta(day)
        yield tuple(
            split_words(f"{name[code]}, {format_date(date, style, locale=language)}")
            for name, language in zip(names, languages, strict=True)
        )
