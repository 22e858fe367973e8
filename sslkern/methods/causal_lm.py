"""Causal language model: each word is predicted from those before it."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.parts.language import IGNORED, LanguageModel
from sslkern.ops._common import refuse


class CausalLM(LanguageModel):
    r"""Generative pre-training of a transformer that does not look ahead, as GPT.

    With what the encoder makes of the words up to the t-th, :math:`h_t`, and the embeddings W:

    .. math:: \ell = -\operatorname*{mean}_t \log \mathrm{softmax}(W h_t)_{x_{t+1}}

    over all words but the first of each text. Words are embedded as the sum of a word and a
    position; the words' embeddings are the output's weights too. Of the paper, dropout and the
    fine-tuning are left out.

    Args:
        encoder: Maps (B, L, D) to the same shape. It is called as ``torch.nn.TransformerEncoder``
            is, with a mask (L, L) bool, True where a word may not look at another, which it has to
            obey, and with the padding (B, L) bool, or None.
        vocabulary: Number V of words.
        dim: Width D of the encoder.
        pad_token: Word behind the end of texts, which is not predicted; None if all texts are of
            one length.
        length: The most words of a text.

    Raises:
        ValueError: If a size is not positive or the padding not in the vocabulary.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import CausalLM
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = CausalLM(layer, vocabulary=100, dim=16, length=12)
        >>> tokens = torch.randint(100, (6, 12))
        >>> model(tokens).backward()
        >>> model.encode_words(tokens).shape
        torch.Size([6, 12, 16])

    Source: Radford, Narasimhan, Salimans, Sutskever, "Improving Language Understanding by
    Generative Pre-Training", 2018,
    https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf;
    without its fine-tuning also https://arxiv.org/abs/2005.14165
    """

    def __init__(
        self,
        encoder: nn.Module,
        vocabulary: int,
        dim: int,
        *,
        pad_token: int | None = None,
        length: int = 512,
    ) -> None:
        super().__init__(encoder, vocabulary, dim, length=length, causal=True, pad_token=pad_token)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean loss of the words.

        Args:
            tokens: (B, L) int64, L at least 2; padded at the end, if at all.

        Returns:
            Scalar.

        Raises:
            ValueError: If the shape does not fit, a word is not in the vocabulary, or the encoder
                returns another shape.
            TypeError: If the tokens are not int64.
        """
        self.check_words(tokens, "tokens")
        check_following(tokens, self.op)
        hidden = self.encode_words(tokens[:, :-1])
        return self.word_loss(hidden, next_words(tokens, self.pad_token))


def next_words(tokens: Tensor, pad_token: int | None) -> Tensor:
    """Targets (B, L - 1) of all words but the last; ``IGNORED`` where there is no word."""
    following = tokens[:, 1:]
    return (
        following if pad_token is None else following.masked_fill(following == pad_token, IGNORED)
    )


def check_following(tokens: Tensor, op: str) -> None:
    """Reject texts of one word, after which nothing comes."""
    if tokens.shape[1] < 2:
        refuse(op, "tokens", "of at least 2 words", f"shape {tuple(tokens.shape)}")
