"""BERT: hidden words are predicted from both sides, and whether a sentence follows another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.parts.language import LanguageModel, WordMask, check_range, special_words
from sslkern.ops._common import refuse

SEGMENTS = 2
"""The two sentences of a sample."""


class BERT(LanguageModel):
    r"""Masked language model and next-sentence prediction around a transformer.

    With what the encoder makes of the words whose mask was drawn, :math:`h`, of which
    :math:`h_0` is that of the first word, and the embeddings of words W:

    .. math:: \ell = -\operatorname*{mean}_{i \in M} \log \mathrm{softmax}
              (W\,\mathrm{LN}(\mathrm{GELU}(A h_i)) + b)_{x_i}
              - \log \mathrm{softmax}(C \tanh(D h_0))_y

    M are the chosen words of all samples: each with the probability ``mask_rate``; 80 % of them are
    replaced by ``mask_token``, 10 % by a random word, and 10 % stay. Each forward pass draws anew,
    from torch's global generator. A, C and D are linear maps with biases, and LN is a layer norm.
    Words are embedded as the sum of a word, a position and a segment, then normalized.

    The paper's code draws the masks once for all, a fixed number a sample. Its dropout is left out;
    the encoder may have its own.

    Args:
        encoder: Maps (B, L, D) to the same shape. With a ``pad_token`` it is called with two more
            arguments, as ``torch.nn.TransformerEncoder`` is: None and the padding (B, L) bool.
        vocabulary: Number V of words.
        dim: Width D of the encoder.
        mask_token: Word that stands for a hidden one.
        special_tokens: Words that are never chosen, such as those around sentences.
        pad_token: Word behind the end of texts, which is not predicted either; None if all texts
            are of one length.
        length: The most words of a sample.
        mask_rate: Share of the words that are predicted.

    Raises:
        ValueError: If a size is not positive, a word not in the vocabulary, or the rate outside
            [0, 1].
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import BERT
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = BERT(layer, 100, 16, mask_token=4, special_tokens=(2, 3), length=12)
        >>> tokens = torch.randint(5, 100, (6, 12))
        >>> tokens[:, 0], tokens[:, 6], tokens[:, 11] = 2, 3, 3
        >>> segments = (torch.arange(12) > 6).long().expand(6, 12)
        >>> model(tokens, segments, torch.tensor([0, 1, 0, 1, 0, 1])).backward()
        >>> model.encode_words(tokens, segments).shape
        torch.Size([6, 12, 16])

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2018, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        encoder: nn.Module,
        vocabulary: int,
        dim: int,
        *,
        mask_token: int,
        special_tokens: Sequence[int] = (),
        pad_token: int | None = None,
        length: int = 512,
        mask_rate: float = 0.15,
    ) -> None:
        super().__init__(
            encoder,
            vocabulary,
            dim,
            length=length,
            kinds=SEGMENTS,
            norm=True,
            bias=True,
            pad_token=pad_token,
        )
        never = special_words(special_tokens, pad_token)
        self.mask = WordMask("BERT", vocabulary, mask_token, never, mask_rate)
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=1e-12))
        self.next_sentence = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 2))

    def forward(self, tokens: Tensor, segments: Tensor, unrelated: Tensor) -> Tensor:
        """Return the sum of both losses.

        Args:
            tokens: (B, L) int64, of which the first stands for the whole sample.
            segments: (B, L) int64, 0 or 1: the sentence that a word is in.
            unrelated: (B,) int64, 0 where the second sentence follows the first, 1 where it is
                another one.

        Returns:
            Scalar.

        Raises:
            ValueError: If shapes do not fit, a value is out of range, or the encoder returns
                another shape.
            TypeError: If the tokens are not int64.
        """
        self.check_words(tokens, "tokens")
        self._check("segments", segments, tuple(tokens.shape))
        self._check("unrelated", unrelated, (len(tokens),))
        inputs, targets = self.mask(tokens)
        hidden = self.encode_words(inputs, segments)
        return self.masked_loss(hidden, targets) + F.cross_entropy(
            self.next_sentence(hidden[:, 0]), unrelated
        )

    def masked_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the chosen words.

        Args:
            hidden: (B, L, D), of `encode_words`.
            targets: (B, L) int64, of `mask`.
        """
        return self.word_loss(self.transform(hidden), targets)

    def _check(self, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if value.shape != shape or value.dtype != torch.int64:
            got = f"{value.dtype} of shape {tuple(value.shape)}"
            refuse("BERT", name, f"torch.int64 of shape {shape}", got)
        check_range(value, name, 2, "BERT")
