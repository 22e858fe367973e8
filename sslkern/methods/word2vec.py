"""word2vec: vectors of words from the words that they stand among."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method
from sslkern.methods.parts.language import check_range
from sslkern.methods.parts.unigram import UnigramSampler
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.sampled_logits import negative_sampling_loss

Objective = Literal["skip_gram", "cbow"]
OBJECTIVES = ("skip_gram", "cbow")
NOTHING = -1
"""In the place of a context word that there is not."""


class Word2Vec(Method):
    r"""Skip-gram or continuous bag of words, with negative sampling.

    With the vectors :math:`v` of words, which are kept, and output vectors :math:`u`:

    .. math:: \ell = -\log \sigma(q \cdot u_p) - \sum_{k=1}^{K} \log \sigma(-q \cdot u_{n_k})

    ``"skip_gram"``
        From the word in the center each word of its context: :math:`q = v_{\mathrm{center}}` and p
        is a context word; the mean is over all such pairs.
    ``"cbow"``
        From the mean of the context's vectors q the word in the center, p; the mean is over the
        centers.

    The K noise words come from the words' counts to the power of 3/4, drawn from torch's global
    generator. At the start u is 0, so the loss is :math:`(K + 1) \ln 2`, and v is even between
    :math:`-1/2D` and :math:`1/2D`, as in the authors' code. A noise word that is p by chance counts
    as drawn; that code leaves it out. Windows of random size and leaving out frequent words are the
    business of whoever makes the batches: `sslkern.train.windows.windows` does both.

    There is no encoder but the table of vectors, ``model.encoder``.

    Args:
        counts: How often each word occurs, (V,), not negative.
        dim: Width D of the vectors.
        objective: ``"skip_gram"`` or ``"cbow"``.
        negatives: Number K.
        power: Of the counts.

    Raises:
        ValueError: If the counts are no numbers to draw from, a number is not positive, or there
            is no such objective.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import Word2Vec
        >>> model = Word2Vec(torch.tensor([5, 3, 3, 2, 1]), dim=8)
        >>> center, context = torch.tensor([0, 3]), torch.tensor([[1, 2], [0, -1]])
        >>> loss = model(center, context)
        >>> round(loss.item(), 4)
        4.1589
        >>> loss.backward()
        >>> model.encoder(center).shape
        torch.Size([2, 8])

    Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, https://arxiv.org/abs/1310.4546; the two objectives:
    https://arxiv.org/abs/1301.3781
    """

    def __init__(
        self,
        counts: Tensor,
        dim: int = 100,
        *,
        objective: Objective = "skip_gram",
        negatives: int = 5,
        power: float = 0.75,
    ) -> None:
        super().__init__()
        check_count(dim, "dim", "Word2Vec")
        check_count(negatives, "negatives", "Word2Vec")
        if objective not in OBJECTIVES:
            refuse("Word2Vec", "objective", " or ".join(map(repr, OBJECTIVES)), repr(objective))
        self.noise = UnigramSampler(counts, power)
        vectors = nn.Embedding(len(counts), dim)
        nn.init.uniform_(vectors.weight, -0.5 / dim, 0.5 / dim)
        self.encoder = vectors
        self.output = nn.Parameter(torch.zeros(len(counts), dim))
        self.objective = objective
        self.negatives = negatives

    def forward(self, center: Tensor, context: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            center: Words (B,) int64.
            context: The words around each, (B, W) int64, and -1 where there is none.

        Returns:
            Scalar.

        Raises:
            ValueError: If the shapes do not fit, a word is out of range, or there is no context.
        """
        self._check(center, context)
        there = context != NOTHING
        known = context.clamp(min=0)
        if self.objective == "cbow":
            weight = there.any(1)
            query = self.mean_vector(known, there)
            positive = center
        else:
            weight = there.flatten()
            query = self.encoder(center).repeat_interleave(context.shape[1], 0)
            positive = known.flatten()
        negative = self.draw(len(positive)).to(positive.device)
        return negative_sampling_loss(
            query, self.output.to(query.dtype), positive, negative, weight=weight.to(query.dtype)
        )

    def draw(self, count: int) -> Tensor:
        """Noise words (count, K), on the device of the counts."""
        return self.noise.sample((count, self.negatives))

    def mean_vector(self, words: Tensor, there: Tensor) -> Tensor:
        """Mean (B, D) of the vectors of those words (B, W) that are there; 0 where none is."""
        vectors: Tensor = self.encoder(words)
        known = there.to(vectors.dtype)
        share = known / known.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bw,bwd->bd", share, vectors)

    def _check(self, center: Tensor, context: Tensor) -> None:
        for name, value in (("center", center), ("context", context)):
            if value.dtype != torch.int64:
                refuse("Word2Vec", name, "of dtype torch.int64", value.dtype)
        if center.dim() != 1 or context.dim() != 2 or len(center) != len(context):
            got = f"shapes {tuple(center.shape)} and {tuple(context.shape)}"
            refuse("Word2Vec", "center and context", "of shapes (B,) and (B, W)", got)
        if torch.compiler.is_compiling() or center.device.type != "cpu":
            return
        if not bool((context != NOTHING).any()):
            refuse("Word2Vec", "context", "of at least one word", "none")
        if int(context.min()) < NOTHING:
            refuse("Word2Vec", "context", "of words, or -1 where there is none", int(context.min()))
        for name, value in (("center", center), ("context", context.clamp(min=0))):
            check_range(value, name, len(self.output), "Word2Vec")
