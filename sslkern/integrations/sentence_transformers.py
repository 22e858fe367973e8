"""The ranking loss of sentence-transformers, computed by ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sslkern.integrations._patch import Patch, need, patch_library, replacement
from sslkern.integrations._tensors import are_several, need_even_rows, need_tensors
from sslkern.ops import info_nce_loss


def patch_sentence_transformers() -> Patch:
    """Have ``MultipleNegativesRankingLoss`` of sentence-transformers compute by sslkern, in place.

    The class stays the library's, with its instances, subclasses (the symmetric and the sparse
    one) and its forms around it (``MatryoshkaLoss``); replaced is what turns embeddings into the
    loss, ``compute_loss_from_embeddings``. Served are ``cos_sim`` and ``dot_score``, any scale,
    hard negatives, and all directions in both partition modes; over several processes with
    ``gather_across_devices`` the directions between queries and documents of pairs, where the
    value is that of the rank's own rows, as in the library.

    What ours does not serve runs the library's own code, with one `FallbackWarning` per class and
    reason: another similarity, ``hardness_mode``, "doc_to_doc" without "doc_to_query", columns of
    different lengths, sparse embeddings; over several processes hard negatives, "query_to_query"
    and "doc_to_doc". ``CachedMultipleNegativesRankingLoss`` has code of its own and is left alone;
    `sslkern.parallel.cached_step` does what it is for. So is the class of the same name for
    cross-encoders, which is another loss.

    Where the numbers differ on purpose: rows whose norm is below 1e-12 get no gradient. A second
    derivative is the library's own.

    Returns:
        The patch: end it with ``unpatch()``, or use it in a ``with`` statement.

    Raises:
        ImportError: If the library is not installed, or of a version that was not tested, see
            `sslkern.integrations.TESTED`.

    Example:
        >>> from sentence_transformers.sentence_transformer import losses  # doctest: +SKIP
        >>> import torch, sslkern  # doctest: +SKIP
        >>> loss_fn = losses.MultipleNegativesRankingLoss(torch.nn.Identity())  # doctest: +SKIP
        >>> with sslkern.integrations.patch_sentence_transformers():  # doctest: +SKIP
        ...     pair = [torch.eye(2), torch.ones(2, 2)]
        ...     loss = loss_fn.compute_loss_from_embeddings(pair, None)
        >>> print(f"{loss.item():.6f}")  # doctest: +SKIP
        0.693147

    Source: https://github.com/huggingface/sentence-transformers
    """
    name = "MultipleNegativesRankingLoss"
    return patch_library(
        "sentence-transformers",
        "sentence_transformers.sentence_transformer.losses",
        lambda module: [
            replacement(
                getattr(module, name),
                "compute_loss_from_embeddings",
                f"sentence_transformers.losses.{name}",
                _ranking(),
            )
        ],
    )


def _ranking() -> Callable[..., Tensor]:
    similarities = importlib.import_module("sentence_transformers.util")
    cos_sim, dot_score = similarities.cos_sim, similarities.dot_score

    def compute_loss_from_embeddings(
        self: Any, embeddings: Sequence[Tensor], labels: Tensor | None
    ) -> Tensor:
        need_tensors(*embeddings)
        need(len(embeddings) > 1, "fewer than two columns")
        need(self.similarity_fct in (cos_sim, dot_score), "another similarity_fct")
        need(not (self.hardness_mode and self.hardness_strength > 0), "hardness_mode")
        columns = [_at_least_float32(column) for column in embeddings]
        even = all(column.shape == columns[0].shape for column in columns)
        need(even and columns[0].dim() == 2, "columns of other shapes")
        options = {"temperature": 1 / self.scale, "normalize": self.similarity_fct is cos_sim}
        if self.gather_across_devices and are_several():
            sides = _sides_of_all(self.directions, columns, options)
        else:
            sides = _sides(self.directions, columns, options)
        if len(sides) == 1:
            return sides[0].mean()
        if self.partition_mode == "joint":
            return torch.logaddexp(*sides).mean()
        return (sides[0].mean() + sides[1].mean()) / 2

    return compute_loss_from_embeddings


def _at_least_float32(column: Tensor) -> Tensor:
    """As the library's similarities have it."""
    return column.float() if column.dtype in (torch.float16, torch.bfloat16) else column


def _sides(
    directions: Sequence[str], columns: list[Tensor], options: dict[str, Any]
) -> list[Tensor]:
    """Cross entropy of each query, and of each positive document where that is asked for.

    Both have the pair's similarity as target, so that the logarithm of a joint denominator less
    that of the target is the log-sum-exp of the two.
    """
    need(
        "doc_to_query" in directions or "doc_to_doc" not in directions,
        "doc_to_doc without doc_to_query",
    )
    queries, positives, documents = *columns[:2], torch.cat(columns[1:])
    rows = torch.arange(len(queries), device=queries.device)
    owners = rows.repeat(len(columns) - 1)  # of the documents
    same = (queries, rows) if "query_to_query" in directions else None
    sides = [_rows_against(queries, rows, documents, same, options)]
    if "doc_to_query" in directions:
        same = (documents, owners) if "doc_to_doc" in directions else None
        sides.append(_rows_against(positives, rows, queries, same, options))
    return sides


def _rows_against(
    rows: Tensor,
    ids: Tensor,
    keys: Tensor,
    same: tuple[Tensor, Tensor] | None,
    options: dict[str, Any],
) -> Tensor:
    """Row i against the keys, whose i-th is its own, and rows of its kind of other identities."""
    if same is None:
        return info_nce_loss(rows, keys, target=ids, reduction="none", **options)
    more, more_ids = same
    nobody = ids.new_full((len(keys),), -1)
    return info_nce_loss(
        rows,
        torch.cat([keys, more]),
        target=ids,
        reduction="none",
        ids=ids,
        key_ids=torch.cat([nobody, more_ids]),
        **options,
    )


def _sides_of_all(
    directions: Sequence[str], columns: list[Tensor], options: dict[str, Any]
) -> list[Tensor]:
    """The same against the rows of all processes."""
    only = {"query_to_doc", "doc_to_query"}
    need(only.issuperset(directions), "query_to_query or doc_to_doc over several processes")
    need(len(columns) == 2, "hard negatives over several processes")
    need_even_rows(*columns)
    queries, documents = columns
    pairs = [(queries, documents), (documents, queries)]
    return [
        info_nce_loss(row, key, reduction="none", gather_distributed=True, **options)
        for row, key in (pairs if "doc_to_query" in directions else pairs[:1])
    ]
