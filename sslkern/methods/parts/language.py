"""Words as vectors, and vectors as words again: what methods on text share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method
from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_tensor, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.linear_cross_entropy import linear_cross_entropy

IGNORED = -100
"""Target of a place where nothing is to be predicted."""
DEVIATION = 0.02
"""Of the embeddings at the start, as in BERT and GPT."""


class LanguageModel(Method):
    r"""Embeddings of words, the user's encoder, and the loss of words by the same embeddings.

    .. math:: h = f(W_x + P + K), \quad \ell = -\log \mathrm{softmax}(W h + b)_y

    with the rows of W for the words, of P for their positions and of K for their kinds, such as the
    sentence that they are in.

    The encoder is called as ``torch.nn.TransformerEncoder`` is: with what it maps, (B, L, D), and
    then, where the method has them, with a mask (L, L), True where a word may not look at another,
    and with the padding (B, L), True where there is no word.

    Args:
        encoder: Maps (B, L, D) to the same shape.
        vocabulary: Number V of words.
        dim: Width D.
        length: The most words of a text.
        kinds: Number of kinds; 0 where words have none.
        norm: Whether the sum of the embeddings is normalized.
        bias: Whether words have a bias b.
        causal: Whether words may not look at those behind them.
        pad_token: Word that stands where there is none; None where all texts are full.

    Raises:
        ValueError: If a size is not positive or a word is not in the vocabulary.
        TypeError: If a size is no integer.
    """

    def __init__(
        self,
        encoder: nn.Module,
        vocabulary: int,
        dim: int,
        *,
        length: int,
        kinds: int = 0,
        norm: bool = False,
        bias: bool = False,
        causal: bool = False,
        pad_token: int | None = None,
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        for name, count in (("vocabulary", vocabulary), ("dim", dim), ("length", length)):
            check_count(count, name, self.op)
        if pad_token is not None:
            check_word(pad_token, "pad_token", vocabulary, self.op)
        self.encoder = encoder
        self.words = _embedding(vocabulary, dim)
        self.positions = _embedding(length, dim)
        self.kinds = _embedding(kinds, dim) if kinds else None
        self.norm = nn.LayerNorm(dim, eps=1e-12) if norm else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if bias else None
        self.causal = causal
        self.pad_token = pad_token

    def encode_words(
        self, tokens: Tensor, kinds: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """What the encoder makes of texts, (B, L, D).

        Args:
            tokens: (B, L) int64.
            kinds: (B, L) int64.
            positions: (L,) int64; 0 to L - 1 if not given.

        Raises:
            ValueError: If the encoder returns another shape.
        """
        length = tokens.shape[1]
        places = torch.arange(length, device=tokens.device) if positions is None else positions
        embedded = self.words(tokens) + self.positions(places)
        if self.kinds is not None:
            embedded = embedded + self.kinds(kinds)
        embedded = self.norm(embedded)
        mask = causal_mask(length, tokens.device) if self.causal else None
        padding = None if self.pad_token is None else tokens == self.pad_token
        masks = () if mask is None and padding is None else (mask, padding)
        encoded: Tensor = self.encoder(embedded, *masks)
        if encoded.shape != embedded.shape:
            requirement = f"a module that returns the shape {tuple(embedded.shape)}"
            refuse(self.op, "encoder", requirement, tuple(encoded.shape))
        return encoded

    def word_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the words (B, L) int64 that are not ``IGNORED``; 0 if all are.

        Args:
            hidden: (B, L, D).
            targets: (B, L).
        """
        weight = self.words.weight.to(hidden.dtype)
        return linear_cross_entropy(hidden, weight, targets, bias=self.bias, ignore_index=IGNORED)

    def check_words(self, tokens: Tensor, name: str, shape: str = "(B, L)") -> None:
        """Reject what are no words of the vocabulary, or too many for the positions.

        Raises:
            ValueError: For another shape or a word that the vocabulary does not have.
            TypeError: For what is no int64 tensor.
        """
        check_tensor(tokens, name, self.op)
        if tokens.dtype != torch.int64:
            raise TypeError(
                f"sslkern::{self.op}: expected {name} to be of dtype torch.int64, "
                f"got {tokens.dtype}"
            )
        dims, most = shape.count(",") + 1, self.positions.num_embeddings
        if tokens.dim() != dims or 0 in tokens.shape or tokens.shape[-1] > most:
            requirement = f"of shape {shape} with L from 1 to {most}"
            refuse(self.op, name, requirement, f"shape {tuple(tokens.shape)}")
        check_range(tokens, name, self.words.num_embeddings, self.op)


@dataclass(frozen=True)
class WordMask:
    """Hides words that are then to be predicted, as BERT does.

    Each word is chosen with the probability ``rate``. Of the chosen ones 80 % become
    ``mask_token``, 10 % a word drawn evenly from the vocabulary, and 10 % stay. What is drawn comes
    from torch's global generator.

    Attributes:
        op: Name of the method.
        vocabulary: Number of words.
        mask_token: Word that stands for a hidden one.
        never: Words that are not predicted, such as those between sentences.
        rate: Share of the words that are predicted, from 0 to 1.

    Raises:
        ValueError: If a word is not in the vocabulary, or the rate outside [0, 1].

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2018, https://arxiv.org/abs/1810.04805 (section 3.1)
    """

    op: str
    vocabulary: int
    mask_token: int
    never: tuple[int, ...]
    rate: float

    def __post_init__(self) -> None:
        """Check the words and the rate."""
        check_word(self.mask_token, "mask_token", self.vocabulary, self.op)
        for token in self.never:
            check_word(token, "special_tokens", self.vocabulary, self.op)
        check_share(self.rate, "mask_rate", self.op)

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of tokens, each of their shape; targets are ``IGNORED`` elsewhere."""
        chosen = torch.rand(tokens.shape, device=tokens.device) < self.rate
        how = torch.rand(tokens.shape, device=tokens.device)
        others = torch.randint(self.vocabulary, tokens.shape, device=tokens.device)
        for token in self.never:
            chosen &= tokens != token
        hidden = tokens.masked_fill(chosen & (how < 0.8), self.mask_token)
        hidden = torch.where(chosen & (how >= 0.9), others, hidden)
        return hidden, tokens.masked_fill(~chosen, IGNORED)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(L, L) bool, True where a word, by rows, would look at one behind it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


def special_words(tokens: Iterable[int], pad_token: int | None) -> tuple[int, ...]:
    """All words that are never predicted."""
    return (*tokens, *(() if pad_token is None else (pad_token,)))


def check_word(token: int, name: str, vocabulary: int, op: str) -> None:
    """Reject what is no word of the vocabulary."""
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary:
        refuse(op, name, f"in [0, {vocabulary}), the words of the vocabulary", token)


def check_range(index: Tensor, name: str, count: int, op: str) -> None:
    """Reject values outside [0, count), where looking costs nothing."""
    if torch.compiler.is_compiling() or index.device.type != "cpu":
        return
    for value in torch.aminmax(index):
        if not 0 <= int(value) < count:
            refuse(op, name, f"of values in [0, {count})", int(value))


def _embedding(count: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(count, dim)
    nn.init.normal_(table.weight, std=DEVIATION)
    return table
