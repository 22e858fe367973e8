"""The ranking loss of sentence-transformers before and after its patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from before_and_after import (
    assert_falls_back,
    assert_graphs_are_kept_as_asked,
    assert_methods_come_back,
    assert_modules_stay,
    assert_patch_is_accurate,
    assert_patch_keeps_numbers,
    assert_same_error,
    assert_second_derivative_stays,
    assert_training_goes_the_same_way,
    runs_ours,
)
from torch import Tensor, nn

from sslkern.integrations import patch_sentence_transformers

util: Any = pytest.importorskip("sentence_transformers.util")
losses: Any = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
MultipleNegativesRankingLoss: Any = losses.MultipleNegativesRankingLoss

Q2D, Q2Q, D2Q, D2D = "query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"


def columns(
    batch: int, dims: int, count: int = 2, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shared, *noise = torch.randn(count + 1, batch, dims, generator=g, dtype=torch.float64)
    return [(shared + n).to(dtype) for n in noise]


class OfEmbeddings(nn.Module):
    """The loss of columns that are embeddings already, through the whole of its forward."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loss = MultipleNegativesRankingLoss(_AsIs(), **options)

    def forward(self, *embeddings: Tensor) -> Tensor:
        return self.loss([{"sentence_embedding": z} for z in embeddings], None)


class _AsIs(nn.Module):
    """A model whose features are its embeddings."""

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return features


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "scale": {"scale": 3.0},
    "products": {"scale": 1.0, "similarity_fct": util.dot_score},
    "one device": {"gather_across_devices": True},
    "symmetric": {"directions": (Q2D, D2Q), "partition_mode": "per_direction"},
    "both, joint": {"directions": (Q2D, D2Q), "scale": 5.0},
    "queries": {"directions": (Q2D, Q2Q), "scale": 5.0},
    "queries, both": {"directions": (Q2D, D2Q, Q2Q), "scale": 5.0},
    "documents, both": {"directions": (Q2D, D2Q, D2D), "scale": 5.0},
    "all": {"directions": (Q2D, Q2Q, D2Q, D2D)},
    "all, products": {
        "directions": (D2D, D2Q, Q2Q, Q2D),
        "scale": 0.5,
        "similarity_fct": util.dot_score,
    },
    "weighting that is off": {"hardness_mode": "all_negatives", "hardness_strength": 0.0},
}


@pytest.mark.parametrize(("batch", "dims", "count"), [(2, 3, 2), (9, 5, 2), (9, 5, 4), (33, 40, 3)])
@pytest.mark.parametrize("case", CASES)
def test_numbers_stay(case: str, batch: int, dims: int, count: int) -> None:
    make, inputs = partial(OfEmbeddings, **CASES[case]), columns(batch, dims, count)
    assert_patch_keeps_numbers(patch_sentence_transformers, make, *inputs)
    with patch_sentence_transformers():
        assert runs_ours(partial(make(), *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_lower_dtypes_are_as_accurate(case: str, dtype: torch.dtype) -> None:
    make, inputs = partial(OfEmbeddings, **CASES[case]), columns(24, 17, 3, dtype)
    assert_patch_is_accurate(patch_sentence_transformers, make, *inputs)


@pytest.mark.parametrize("case", ["default", "all"])
def test_second_derivatives_stay(case: str) -> None:
    make, inputs = partial(OfEmbeddings, **CASES[case]), columns(6, 4, 3)
    assert_second_derivative_stays(patch_sentence_transformers, make, *inputs)
    assert_graphs_are_kept_as_asked(patch_sentence_transformers, make, *inputs)


# ---- the same class


def test_methods_come_back() -> None:
    name = "compute_loss_from_embeddings"
    assert_methods_come_back(patch_sentence_transformers, MultipleNegativesRankingLoss, name)


def test_modules_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: nn.Module, *embeddings: Tensor) -> Tensor:
        return self.forward([{"sentence_embedding": z} for z in embeddings], None)

    monkeypatch.setattr(MultipleNegativesRankingLoss, "__call__", call, raising=False)
    assert_modules_stay(
        patch_sentence_transformers, MultipleNegativesRankingLoss, *columns(6, 4), model=_AsIs()
    )


@pytest.mark.filterwarnings("ignore:The MultipleNegativesSymmetricRankingLoss:DeprecationWarning")
def test_subclasses_are_served() -> None:
    def make() -> Any:
        return losses.MultipleNegativesSymmetricRankingLoss(_AsIs())

    def call(*embeddings: Tensor) -> Tensor:
        return make().compute_loss_from_embeddings(list(embeddings), None)

    inputs = columns(6, 4)
    expected = call(*inputs)
    with patch_sentence_transformers():
        assert runs_ours(partial(call, *inputs))
        torch.testing.assert_close(call(*inputs), expected, rtol=1e-9, atol=0)


# ---- what ours does not serve

FALLBACKS: dict[str, tuple[dict[str, Any], str]] = {
    "similarity": ({"similarity_fct": util.euclidean_sim}, "another similarity_fct"),
    "hardness": (
        {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
        "hardness_mode",
    ),
    "documents alone": ({"directions": (Q2D, D2D)}, "doc_to_doc without doc_to_query"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_falls_back_with_one_warning(case: str) -> None:
    options, reason = FALLBACKS[case]
    assert_falls_back(patch_sentence_transformers, OfEmbeddings(**options), reason, *columns(6, 4))


def test_more_negatives_than_queries_fall_back() -> None:
    """The library takes them where only queries are rows."""
    inputs = [*columns(6, 4), columns(9, 4)[0]]
    reason = "columns of other shapes"
    assert_falls_back(patch_sentence_transformers, OfEmbeddings(), reason, *inputs)


ERRORS: dict[str, Callable[[], Any]] = {
    "scale": lambda: OfEmbeddings(scale=0.0),
    "directions": lambda: OfEmbeddings(directions=(D2Q,)),
    "one column": lambda: OfEmbeddings()(columns(4, 3)[0]),
    "width": lambda: OfEmbeddings()(columns(4, 3)[0], columns(4, 5)[0]),
    "arguments": lambda: OfEmbeddings().loss.compute_loss_from_embeddings(),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_the_library(case: str) -> None:
    assert_same_error(patch_sentence_transformers, ERRORS[case])


# ---- training, as the trainer does it


class _Bag(nn.Module):
    """The mean of the embeddings of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return {"sentence_embedding": self.words(features["input_ids"]).mean(1)}


def _train() -> list[float]:
    torch.manual_seed(0)
    model = _Bag().double()
    loss = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    anchors, positives, negatives = torch.randint(50, (3, 24, 6))
    positives[:, :2] = anchors[:, :2]
    batch = [{"input_ids": ids} for ids in (anchors, positives, negatives)]
    found = []
    for _ in range(8):
        value = loss(batch, None)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


def test_training_goes_the_same_way() -> None:
    assert_training_goes_the_same_way(patch_sentence_transformers, _train)
