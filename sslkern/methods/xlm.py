"""XLM: one model of several languages, by causal, masked or translation language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sslkern.methods.causal_lm import check_following, next_words
from sslkern.methods.parts.language import LanguageModel, WordMask, check_range, special_words
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count

Objective = Literal["clm", "mlm", "tlm"]
OBJECTIVES = ("clm", "mlm", "tlm")


class XLM(LanguageModel):
    r"""Cross-lingual language model with one of the paper's three objectives.

    With what the encoder makes of a text, :math:`h`, and the embeddings of words W:

    .. math:: \ell = -\operatorname*{mean}_{i \in M} \log \mathrm{softmax}(W h_i + b)_{y_i}

    ``"clm"``
        y is the next word, and no word looks ahead; M is all words but the last.
    ``"mlm"``
        y are words that are chosen and hidden as in BERT: each with the probability ``mask_rate``,
        80 % by ``mask_token``, 10 % by a random word, 10 % not. Each forward pass draws anew, from
        torch's global generator.
    ``"tlm"``
        The same in a sentence and its translation as one text, so that a word hidden in one of them
        may be read in the other. The positions begin anew with the second sentence.

    Words are embedded as the sum of a word, a position and a language, then normalized. As in the
    public code by default, words are chosen evenly, not by how rare they are. Left out are dropout
    and the adaptive softmax.

    Args:
        encoder: Maps (B, L, D) to the same shape. It is called as ``torch.nn.TransformerEncoder``
            is, with a mask (L, L) bool, True where a word may not look at another, and the padding
            (B, L) bool; each is None where there is none, and both are left out where neither is.
        vocabulary: Number V of words of all languages together.
        dim: Width D of the encoder.
        languages: Number of languages.
        objective: ``"clm"``, ``"mlm"`` or ``"tlm"``.
        mask_token: Word that stands for a hidden one.
        special_tokens: Words that are never hidden, such as those around sentences.
        pad_token: Word behind the end of sentences, which is not predicted either; None if all
            sentences are of one length.
        length: The most words of a sentence.
        mask_rate: Share of the words that are predicted.

    Raises:
        ValueError: If a size is not positive, a word not in the vocabulary, the rate outside
            [0, 1], or there is no such objective.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import XLM
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = XLM(layer, 100, 16, languages=2, objective="tlm", mask_token=4, length=12)
        >>> sentences = torch.randint(5, 100, (6, 2, 12))
        >>> model(sentences, torch.tensor([[0, 1]]).expand(6, 2)).backward()

    Source: Lample and Conneau, "Cross-lingual Language Model Pretraining", 2019,
    https://arxiv.org/abs/1901.07291
    """

    def __init__(
        self,
        encoder: nn.Module,
        vocabulary: int,
        dim: int,
        *,
        languages: int,
        objective: Objective,
        mask_token: int,
        special_tokens: Sequence[int] = (),
        pad_token: int | None = None,
        length: int = 512,
        mask_rate: float = 0.15,
    ) -> None:
        check_count(languages, "languages", "XLM")
        if objective not in OBJECTIVES:
            refuse("XLM", "objective", " or ".join(map(repr, OBJECTIVES)), repr(objective))
        super().__init__(
            encoder,
            vocabulary,
            dim,
            length=length,
            kinds=languages,
            norm=True,
            bias=True,
            causal=objective == "clm",
            pad_token=pad_token,
        )
        never = special_words(special_tokens, pad_token)
        self.mask = WordMask("XLM", vocabulary, mask_token, never, mask_rate)
        self.objective = objective
        self.languages = languages

    def forward(self, tokens: Tensor, languages: Tensor) -> Tensor:
        """Return the mean loss of the words to predict.

        Args:
            tokens: (B, L) int64, or (B, 2, L) for ``"tlm"``: sentences, or each with its
                translation. Padded at the end, if at all, and each for itself.
            languages: (B,) int64, or (B, 2): that of each sentence.

        Returns:
            Scalar.

        Raises:
            ValueError: If shapes do not fit, a value is out of range, or the encoder returns
                another shape.
            TypeError: If the tokens are not int64.
        """
        self._check(tokens, languages)
        if self.causal:
            check_following(tokens, "XLM")
            hidden = self.encode_sentences(tokens[:, :-1], languages)
            return self.word_loss(hidden, next_words(tokens, self.pad_token))
        inputs, targets = self.mask(tokens)
        return self.masked_loss(inputs, targets, languages)

    def masked_loss(self, inputs: Tensor, targets: Tensor, languages: Tensor) -> Tensor:
        """Mean cross entropy of the chosen words.

        Args:
            inputs: (B, L) or (B, 2, L) int64, of `mask`.
            targets: Of the same shape, of `mask`.
            languages: (B,) or (B, 2) int64.
        """
        return self.word_loss(self.encode_sentences(inputs, languages), targets.flatten(1))

    def encode_sentences(self, tokens: Tensor, languages: Tensor) -> Tensor:
        """What the encoder makes of sentences, (B, L, D), or of two as one text, (B, 2 L, D).

        Args:
            tokens: (B, L) or (B, 2, L) int64.
            languages: (B,) or (B, 2) int64.
        """
        length = tokens.shape[-1]
        places = torch.arange(length, device=tokens.device).repeat(tokens[0].numel() // length)
        of_words = languages.unsqueeze(-1).expand(tokens.shape).flatten(1)
        return self.encode_words(tokens.flatten(1), of_words, places)

    def _check(self, tokens: Tensor, languages: Tensor) -> None:
        translated = self.objective == "tlm"
        self.check_words(tokens, "tokens", "(B, 2, L)" if translated else "(B, L)")
        if translated and tokens.shape[1] != 2:
            requirement = "of shape (B, 2, L), a sentence and its translation"
            refuse("XLM", "tokens", requirement, f"shape {tuple(tokens.shape)}")
        shape = tuple(tokens.shape[:-1])
        if languages.shape != shape or languages.dtype != torch.int64:
            got = f"{languages.dtype} of shape {tuple(languages.shape)}"
            refuse("XLM", "languages", f"torch.int64 of shape {shape}", got)
        check_range(languages, "languages", self.languages, "XLM")
